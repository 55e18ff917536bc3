"use strict";
// Draws the map of one file: no request, no HTML made from data (only textContent), no library.
(() => {
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  const n = data.u.length;
  const canvas = byId("map"), stage = byId("stage"), tip = byId("tip"), pen = canvas.getContext("2d");
  const over = byId("over"), marker = over.getContext("2d"); // rings lie above: hovering redraws no dots
  const NONE = "0", OVERVIEW = "1", PAD = 28, REACH = 14, MOST_ZOOM = 400, THUMB = 128, PIN_THUMB = 84;

  // ---- points and colours --------------------------------------------------------------------
  const u = Float32Array.from(data.u, (value) => value / data.grid);
  const v = Float32Array.from(data.v, (value) => 1 - value / data.grid); // the page's y goes down
  // A colour's number: classes by their place in the legend, steps of the bar after them.
  const colours = data.legend.map((row) => row[1]).concat(data.ramp);
  const colourOf = data.code.map((code, i) => (code < 0 ? data.legend.length + data.step[i] : code));
  const shown = data.legend.map(() => true);
  let numbersShown = true;
  let lit = null; // the legend row under the pointer
  const visible = (i) => (data.code[i] < 0 ? numbersShown : shown[data.code[i]]);

  // ---- the view ------------------------------------------------------------------------------
  let width = 1, height = 1, ratio = 1, zoom = 1, panX = 0, panY = 0;
  let hovered = -1;
  const pinned = [];
  const side = () => Math.max(1, Math.min(width, height) - 2 * PAD);
  const screenX = (i) => width / 2 + panX + (u[i] - 0.5) * side() * zoom;
  const screenY = (i) => height / 2 + panY + (v[i] - 0.5) * side() * zoom;
  const radius = () => {
    const base = n > 10000 ? 1.9 : n > 3000 ? 2.5 : n > 800 ? 3.2 : 4.5;
    return Math.round(base * Math.min(2.4, Math.pow(zoom, 0.35)) * 4) / 4;
  };
  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  let stamps = [], stampKey = "";
  function makeStamps() {
    const key = [radius(), ratio, style("--edge")].join();
    if (key === stampKey) return;
    stampKey = key;
    const r = radius() * ratio, size = 2 * Math.ceil(r + ratio) + 1;
    stamps = colours.map((colour) => {
      const stamp = document.createElement("canvas");
      stamp.width = stamp.height = size;
      const ink = stamp.getContext("2d");
      for (const [reach, fill] of [[r + 0.6 * ratio, style("--edge")], [r, colour]]) {
        ink.fillStyle = fill;
        ink.beginPath();
        ink.arc(size / 2, size / 2, reach, 0, 2 * Math.PI);
        ink.fill();
      }
      return stamp;
    });
  }

  // Where frames come late, fewer dots are drawn while the map moves, and all of them once it rests.
  let waiting = false, fast = false, share = 1, last = 0, rest = 0;
  function redraw(moving) {
    fast = moving;
    if (moving) { clearTimeout(rest); rest = setTimeout(() => { last = 0; redraw(false); }, 140); }
    if (waiting) return;
    waiting = true;
    requestAnimationFrame((now) => {
      waiting = false;
      if (fast && last && now - last < 500) {
        share = Math.max(Math.min(1, 1500 / n), Math.min(1, share * (now - last > 34 ? 0.7 : 1.15)));
      }
      last = fast ? now : 0;
      draw(fast ? share : 1);
    });
  }

  function draw(part) {
    makeStamps();
    pen.clearRect(0, 0, canvas.width, canvas.height);
    if (lit === null) dots(() => true, 0.92, part);
    else { dots((i) => data.code[i] !== lit, 0.1, part); dots((i) => data.code[i] === lit, 1, part); }
    mark();
  }

  function mark() {
    marker.setTransform(1, 0, 0, 1, 0, 0);
    marker.clearRect(0, 0, over.width, over.height);
    marker.setTransform(ratio, 0, 0, ratio, 0, 0);
    pinned.forEach((i, number) => ring(i, String(number + 1)));
    if (hovered >= 0) ring(hovered, "");
  }

  function dots(wanted, alpha, part) {
    pen.globalAlpha = alpha;
    const scale = side() * zoom * ratio, half = (stamps[0] ? stamps[0].width : 0) / 2;
    const left = (width / 2 + panX) * ratio - 0.5 * scale - half, top = (height / 2 + panY) * ratio - 0.5 * scale - half;
    const first = Math.round(n * (1 - part)); // the order is random, so that its end is an even sample
    for (let k = first; k < n; k++) {
      const i = data.order[k];
      if (!visible(i) || !wanted(i)) continue;
      const x = left + u[i] * scale, y = top + v[i] * scale;
      if (x > -40 && y > -40 && x < canvas.width + 40 && y < canvas.height + 40) pen.drawImage(stamps[colourOf[i]], x, y);
    }
  }

  function ring(i, text) {
    const x = screenX(i), y = screenY(i), r = radius() + 4;
    marker.lineWidth = 2;
    marker.strokeStyle = style("--ring");
    marker.beginPath();
    marker.arc(x, y, r, 0, 2 * Math.PI);
    marker.stroke();
    if (!text) return;
    marker.font = "600 12px system-ui, sans-serif";
    marker.textBaseline = "middle";
    marker.lineWidth = 4;
    marker.strokeStyle = style("--stage");
    marker.strokeText(text, x + r + 3, y);
    marker.fillStyle = style("--ring");
    marker.fillText(text, x + r + 3, y);
  }

  function zoomBy(factor, x = width / 2, y = height / 2) {
    const next = Math.max(0.5, Math.min(MOST_ZOOM, zoom * factor));
    const by = next / zoom;
    panX = (x - width / 2) * (1 - by) + panX * by;
    panY = (y - height / 2) * (1 - by) + panY * by;
    zoom = next;
    redraw(true);
  }

  function fit() { zoom = 1; panX = panY = 0; redraw(false); }

  function resize() {
    width = stage.clientWidth; height = stage.clientHeight; ratio = window.devicePixelRatio || 1;
    canvas.width = over.width = Math.round(width * ratio);
    canvas.height = over.height = Math.round(height * ratio);
    redraw(false);
  }

  // ---- thumbnails: a sheet is decoded when one of its tiles is looked at ---------------------
  const sheets = new Map();
  function sheet(number, then) {
    let image = sheets.get(number);
    if (!image) {
      image = new Image();
      image.src = "data:image/jpeg;base64," + byId("sheet-" + number).textContent;
      sheets.set(number, image);
    }
    if (image.complete && image.naturalWidth) then(image);
    else image.addEventListener("load", () => then(image), { once: true });
  }

  function thumbnail(i, px) {
    const made = document.createElement("canvas");
    made.width = made.height = Math.round(px * ratio);
    made.style.width = made.style.height = px + "px";
    if (data.source[i] === NONE) return null;
    const cells = data.side * data.side, cell = i % cells;
    sheet(Math.floor(i / cells), (image) => {
      const x = (cell % data.side) * data.cell, y = Math.floor(cell / data.side) * data.cell;
      const ink = made.getContext("2d");
      ink.imageSmoothingQuality = "high";
      ink.drawImage(image, x, y, data.cell, data.cell, 0, 0, made.width, made.height);
    });
    return made;
  }

  // ---- what a tile is ------------------------------------------------------------------------
  const said = (i) => (data.word[i] < 0 ? "not labelled" : data.words[data.word[i]]);
  const place = (i) => "at " + data.x[i] + ", " + data.y[i];
  function element(name, text, parent, kind) {
    const made = document.createElement(name);
    if (text !== null) made.textContent = text;
    if (kind) made.className = kind;
    parent.append(made);
    return made;
  }

  function facts(i, parent) {
    const box = element("div", null, parent, "facts");
    const head = element("b", null, box);
    element("i", null, head, "dot").style.background = colours[colourOf[i]];
    head.append(said(i));
    const [slide, owner] = data.slides[data.slide[i]];
    element("span", slide, box);
    if (owner !== slide) element("span", "case " + owner, box);
    element("span", place(i), box);
    if (data.source[i] === OVERVIEW) element("span", "coarse: the slide's file has moved or changed", box);
    if (data.source[i] === NONE) element("span", "no picture: the slide's file has moved or changed", box);
  }

  function show(i) {
    if (i === hovered) return;
    hovered = i;
    tip.hidden = i < 0;
    mark();
    if (i < 0) return;
    tip.replaceChildren();
    const picture = thumbnail(i, THUMB);
    if (picture) tip.append(picture);
    facts(i, tip);
    byId("said").textContent = said(i) + ", " + data.slides[data.slide[i]][0] + ", " + place(i);
    moveTip();
  }

  function moveTip() {
    if (hovered < 0) return;
    const x = screenX(hovered), y = screenY(hovered), gap = 18;
    const left = x + gap + tip.offsetWidth < width ? x + gap : Math.max(4, x - gap - tip.offsetWidth);
    const top = Math.max(4, Math.min(height - tip.offsetHeight - 4, y - tip.offsetHeight / 2));
    tip.style.transform = "translate(" + Math.round(left) + "px," + Math.round(top) + "px)";
  }

  function nearest(x, y, reach) {
    let best = -1, least = reach * reach;
    for (let i = 0; i < n; i++) {
      const dx = screenX(i) - x, dy = screenY(i) - y, away = dx * dx + dy * dy;
      if (away < least && visible(i)) { best = i; least = away; }
    }
    return best;
  }

  /** The visible tile nearest in a direction, within a right angle around it. */
  function step(dx, dy) {
    if (hovered < 0) return nearest(width / 2, height / 2, Infinity);
    const x = screenX(hovered), y = screenY(hovered);
    let best = hovered, least = Infinity;
    for (let i = 0; i < n; i++) {
      const along = (screenX(i) - x) * dx + (screenY(i) - y) * dy;
      const across = Math.abs((screenX(i) - x) * dy) + Math.abs((screenY(i) - y) * dx);
      if (i !== hovered && along > 0 && across <= along && along + across < least && visible(i)) {
        best = i; least = along + across;
      }
    }
    return best;
  }

  function bringIntoView(i) {
    if (i < 0) return;
    const x = screenX(i), y = screenY(i);
    panX += Math.max(0, 20 - x) - Math.max(0, x - width + 20);
    panY += Math.max(0, 20 - y) - Math.max(0, y - height + 20);
    redraw(false);
  }

  // ---- pins ----------------------------------------------------------------------------------
  function pin(i) {
    if (i < 0) return;
    const at = pinned.indexOf(i);
    if (at < 0) pinned.push(i);
    else pinned.splice(at, 1);
    pins();
  }

  function pins() {
    const list = byId("pins");
    list.replaceChildren();
    pinned.forEach((i, number) => {
      const item = element("li", null, list);
      const picture = thumbnail(i, PIN_THUMB);
      if (picture) item.append(picture);
      element("span", String(number + 1), item, "number");
      facts(i, item);
      const drop = element("button", "×", item);
      drop.setAttribute("aria-label", "Unpin tile " + (number + 1));
      drop.addEventListener("click", () => pin(i));
    });
    byId("hint").hidden = pinned.length > 0;
    byId("clear").hidden = pinned.length === 0;
    mark();
  }

  // ---- the legend ----------------------------------------------------------------------------
  const rows = [];
  function legend() {
    const list = byId("legend");
    if (data.ramp.length) {
      byId("bar").hidden = false;
      byId("switches").hidden = !data.legend.length;
      byId("ramp").style.background = "linear-gradient(to right, " + data.ramp.join() + ")";
      byId("low").textContent = data.range[0];
      byId("high").textContent = data.range[1];
    }
    data.legend.forEach(([name, colour, tiles], number) => {
      const button = element("button", null, element("li", null, list));
      element("i", null, button, "dot").style.background = colour;
      element("span", name, button, "name");
      element("span", tiles.toLocaleString("en"), button, "tiles");
      button.addEventListener("click", () => { shown[number] = !shown[number]; press(); });
      for (const begin of ["pointerenter", "focus"]) button.addEventListener(begin, () => light(number));
      for (const end of ["pointerleave", "blur"]) button.addEventListener(end, () => light(null));
      rows.push(button);
    });
    press();
  }

  function light(number) { lit = number !== null && shown[number] ? number : null; redraw(false); }

  function press() {
    rows.forEach((button, number) => button.setAttribute("aria-pressed", String(shown[number])));
    if (hovered >= 0 && !visible(hovered)) show(-1);
    lit = lit !== null && shown[lit] ? lit : null;
    redraw(false);
  }

  function every(value) { shown.fill(value); numbersShown = value; press(); }

  // ---- pointer, wheel, keys ------------------------------------------------------------------
  const fingers = new Map();
  let moved = 0;
  const at = (event) => { const box = canvas.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
  const span = () => { const [a, b] = [...fingers.values()]; return Math.hypot(a[0] - b[0], a[1] - b[1]); };

  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, at(event));
    if (fingers.size === 1) moved = 0;
  });
  canvas.addEventListener("pointermove", (event) => {
    const [x, y] = at(event), before = fingers.get(event.pointerId);
    if (!before) { show(nearest(x, y, REACH)); return; }
    const wide = fingers.size === 2 ? span() : 0;
    fingers.set(event.pointerId, [x, y]);
    moved += Math.abs(x - before[0]) + Math.abs(y - before[1]);
    if (moved < 4) return;
    canvas.classList.add("moving");
    show(-1);
    panX += (x - before[0]) / fingers.size;
    panY += (y - before[1]) / fingers.size;
    if (wide) {
      const [a, b] = [...fingers.values()];
      zoomBy(span() / wide, (a[0] + b[0]) / 2, (a[1] + b[1]) / 2);
    }
    redraw(true);
  });
  canvas.addEventListener("pointerup", (event) => {
    fingers.delete(event.pointerId);
    canvas.classList.remove("moving");
    const found = nearest(...at(event), REACH);
    show(found);
    if (moved < 4) pin(found);
  });
  canvas.addEventListener("pointercancel", (event) => fingers.delete(event.pointerId));
  canvas.addEventListener("pointerleave", () => { if (!fingers.size) show(-1); });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const lines = event.deltaMode === 1 ? 20 : 1; // Firefox may count in lines
    zoomBy(Math.exp(-Math.max(-120, Math.min(120, event.deltaY * lines)) * 0.0025), ...at(event));
    moveTip();
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const arrow = arrows[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (arrow && event.shiftKey) { panX -= 60 * arrow[0]; panY -= 60 * arrow[1]; redraw(true); }
    else if (arrow) { const next = step(...arrow); bringIntoView(next); show(next); }
    else if (event.key === "+" || event.key === "=") zoomBy(1.4);
    else if (event.key === "-" || event.key === "_") zoomBy(1 / 1.4);
    else if (event.key === "0") fit();
    else if (event.key === "Enter" || event.key === " ") pin(hovered);
    else if (event.key === "Escape") show(-1);
    else return;
    event.preventDefault();
    moveTip();
  });

  byId("in").addEventListener("click", () => zoomBy(1.4));
  byId("out").addEventListener("click", () => zoomBy(1 / 1.4));
  byId("fit").addEventListener("click", fit);
  byId("all").addEventListener("click", () => every(true));
  byId("none").addEventListener("click", () => every(false));
  byId("clear").addEventListener("click", () => { pinned.length = 0; pins(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => redraw(false));
  new ResizeObserver(resize).observe(stage);
  canvas.setAttribute("aria-label", "Map of " + n.toLocaleString("en") + " tiles");
  legend();
  resize();
})();
