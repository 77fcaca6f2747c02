"use strict";
(() => {
  const { tokens_by_fate: t, frames } = JSON.parse(document.getElementById("data").textContent);
  const [rows, columns] = t.grid, size = rows * columns;
  const last = Math.max(-1, ...Object.keys(t.inner).map(Number));
  const stays = last < 0 ? null : new Set(t.inner[last]);
  const anchor = new Map(t.anchors.map((token, survivor) => [token, survivor]));
  const pictures = [...document.querySelectorAll(".picture")];
  const told = document.getElementById("told");
  const more = new Map();  // token to the survivors that it feeds besides its own
  t.links[0].forEach((token, i) => more.set(token, [...(more.get(token) || []), t.links[1][i]]));

  const survivorsOf = token => {
    if (anchor.has(token)) return [anchor.get(token)];
    const own = t.owner[token] >= 0 ? [t.owner[token]] : [];
    return [...new Set([...own, ...(more.get(token) || [])])];
  };
  const square = cell => {
    const [left, top, right, bottom] = t.area.map(share => 1000 * share);
    const wide = (right - left) / columns, high = (bottom - top) / rows;
    const x = left + (cell % columns) * wide, y = top + Math.floor(cell / columns) * high;
    return `M${x} ${y}h${wide}v${high}h${-wide}Z`;
  };
  const place = token => {
    const slice = Math.floor(token / size), cell = token % size;
    const time = frames.times[t.slices[slice][0]].toFixed(2);
    return `row ${Math.floor(cell / columns) + 1}, column ${cell % columns + 1} at ${time} s`;
  };
  const draw = (kind, tokens) => {
    const paths = new Map();
    for (const token of tokens) {
      const slice = Math.floor(token / size);
      paths.set(slice, (paths.get(slice) || "") + square(token % size));
    }
    for (const picture of pictures)
      picture.querySelector(`path.${kind}`).setAttribute("d", paths.get(Number(picture.dataset.slice)) || "");
  };
  const words = (token, survivors, members) => {
    if (!survivors.length) return `${place(token)}: dropped before the language model`;
    const heads = survivors.map(survivor => place(t.anchors[survivor]));
    const inside = survivors.every(survivor => !stays || stays.has(survivor));
    const end = inside ? "" : `; it leaves inside the model, by layer ${last}`;
    if (anchor.has(token)) return `${place(token)}: enters the language model for ${members.size} patches${end}`;
    return `${place(token)}: merged into ${heads.join(" and ")}, which stands for ${members.size} patches${end}`;
  };
  const show = token => {
    const survivors = survivorsOf(token), wanted = new Set(survivors), members = new Set();
    if (survivors.length) {
      t.owner.forEach((owner, other) => { if (wanted.has(owner)) members.add(other); });
      t.links[1].forEach((owner, i) => { if (wanted.has(owner)) members.add(t.links[0][i]); });
    }
    draw("members", members);
    draw("survivor", survivors.map(survivor => t.anchors[survivor]));
    draw("cursor", [token]);
    told.textContent = words(token, survivors, members);
  };
  const clear = () => { ["members", "survivor", "cursor"].forEach(kind => draw(kind, [])); told.textContent = ""; };
  const cellAt = (picture, event) => {
    const box = picture.getBoundingClientRect(), [left, top, right, bottom] = t.area;
    const x = ((event.clientX - box.left) / box.width - left) / (right - left);
    const y = ((event.clientY - box.top) / box.height - top) / (bottom - top);
    if (x < 0 || y < 0 || x >= 1 || y >= 1) return -1;
    return Math.floor(y * rows) * columns + Math.floor(x * columns);
  };
  const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

  for (const picture of pictures) {
    const base = Number(picture.dataset.slice) * size;
    let cell = 0, hovered = -1;
    picture.tabIndex = 0;
    picture.setAttribute("role", "application");
    picture.setAttribute("aria-roledescription", "patches of a frame");
    picture.setAttribute("aria-label", picture.querySelector("img").alt + ". Arrow keys move between patches.");
    picture.addEventListener("pointermove", event => {
      const found = cellAt(picture, event);
      if (found === hovered) return;
      hovered = found;
      if (found < 0) clear(); else show(base + (cell = found));
    });
    picture.addEventListener("pointerleave", () => { hovered = -1; clear(); });
    picture.addEventListener("focus", () => { if (picture.matches(":focus-visible")) show(base + cell); });
    picture.addEventListener("blur", clear);
    picture.addEventListener("keydown", event => {
      if (event.key === "Escape") return clear();
      const step = steps[event.key];
      if (!step) return;
      event.preventDefault();
      const row = Math.floor(cell / columns) + step[0], column = cell % columns + step[1];
      if (row >= 0 && row < rows && column >= 0 && column < columns) show(base + (cell = row * columns + column));
    });
  }
  document.querySelector(".scripted").hidden = false;
})();
