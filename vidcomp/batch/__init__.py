"""Many videos: the job list, the journal, the loop."""

from vidcomp.batch.captions import Outcome, caption_videos
from vidcomp.batch.discover import VIDEO_SUFFIXES, find_videos
from vidcomp.batch.journal import Journal

__all__ = ["VIDEO_SUFFIXES", "Journal", "Outcome", "caption_videos", "find_videos"]
