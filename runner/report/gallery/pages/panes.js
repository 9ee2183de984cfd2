/*
 * Images side by side: one zoom and one place for all of them, by wheel, drag, two fingers and keys.
 * The place is counted in parts of a pane, so that images of different sizes show the same spot.
 */

app.panes = (node, tiles, options = {}) => {
  const {el} = app;
  const most = 16;
  const view = {scale: 1, x: 0, y: 0};
  const pointers = new Map();
  let moved = false;

  const figures = tiles.map((tile, index) => {
    const alt = options.alts?.[index] ?? app.describe(tile);
    const image = el('img', {alt, decoding: 'async', draggable: 'false'});
    const stage = el('div', {class: 'stage'}, image);
    image.addEventListener('error', () => {
      stage.replaceChildren(el('p', {class: 'missing'}, 'The image is not there: ', el('bdi', {}, tile.name ?? '')));
    });
    if (tile.image) image.src = tile.image;
    else stage.replaceChildren(app.blank ? app.blank(tile) : el('p', {class: 'missing'}, 'no image'));
    const label = options.labels?.[index];
    const pick = options.onPick && el('button', {
      type: 'button', class: 'choose', onclick: () => options.onPick(tile, index),
    }, label ?? `Image ${index + 1}`);
    const caption = pick ?? (label && el('bdi', {}, label));
    return el('figure', {class: 'pane'}, stage, caption && el('figcaption', {}, caption));
  });
  const stages = figures.map((figure) => figure.firstElementChild);
  const box = el('div', {class: `panes panes-${tiles.length}`}, figures);
  node.append(box);

  function paint() {
    const room = (view.scale - 1) / 2;
    view.x = Math.min(room, Math.max(-room, view.x));
    view.y = Math.min(room, Math.max(-room, view.y));
    for (const stage of stages) {
      const image = stage.querySelector('img');
      if (!image) continue;
      image.style.transform = `translate(${view.x * 100}%, ${view.y * 100}%) scale(${view.scale})`;
      image.classList.toggle('near', view.scale >= 4);
    }
    box.dataset.scale = view.scale.toFixed(3);
    box.dataset.x = view.x.toFixed(3);
    box.dataset.y = view.y.toFixed(3);
    box.classList.toggle('zoomed', view.scale > 1);
  }

  // `x` and `y` are where in the pane the zoom goes, from its middle, in parts of the pane.
  function zoom(by, x = 0, y = 0) {
    const scale = Math.min(most, Math.max(1, view.scale * by));
    const ratio = scale / view.scale;
    view.x = x - (x - view.x) * ratio;
    view.y = y - (y - view.y) * ratio;
    view.scale = scale;
    paint();
  }

  function pan(x, y) {
    view.x += x;
    view.y += y;
    paint();
  }

  function reset() {
    Object.assign(view, {scale: 1, x: 0, y: 0});
    paint();
  }

  const within = (stage, event) => {
    const frame = stage.getBoundingClientRect();
    return [(event.clientX - frame.left) / frame.width - 0.5, (event.clientY - frame.top) / frame.height - 0.5];
  };

  for (const stage of stages) {
    stage.addEventListener('wheel', (event) => {
      event.preventDefault();
      zoom(Math.exp(-Math.sign(event.deltaY) * Math.min(Math.abs(event.deltaY), 100) / 300), ...within(stage, event));
    }, {passive: false});
    stage.addEventListener('pointerdown', (event) => {
      if (event.button !== 0) return;
      stage.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, event);
      moved = false;
    });
    stage.addEventListener('pointermove', (event) => {
      const before = pointers.get(event.pointerId);
      if (!before) return;
      const frame = stage.getBoundingClientRect();
      const [dx, dy] = [event.clientX - before.clientX, event.clientY - before.clientY];
      if (Math.abs(dx) + Math.abs(dy) > 2) moved = true;
      if (pointers.size === 2) {
        const other = [...pointers.values()].find((each) => each.pointerId !== event.pointerId);
        const apart = (each) => Math.hypot(each.clientX - other.clientX, each.clientY - other.clientY);
        if (apart(before) > 0) zoom(apart(event) / apart(before), ...within(stage, event));
      } else {
        pan(dx / frame.width, dy / frame.height);
      }
      pointers.set(event.pointerId, event);
    });
    const release = (event) => pointers.delete(event.pointerId);
    stage.addEventListener('pointerup', release);
    stage.addEventListener('pointercancel', release);
    stage.addEventListener('dblclick', (event) => {
      if (moved) return;
      if (view.scale > 1) reset();
      else zoom(4, ...within(stage, event));
    });
  }
  paint();

  return {
    destroy: () => box.remove(),
    reset,
    zoom,
    // Whether the key was one of its own.
    key(event) {
      const step = 0.1;
      if (event.key === '+' || event.key === '=') zoom(1.5);
      else if (event.key === '-' || event.key === '_') zoom(1 / 1.5);
      else if (event.key === '0') reset();
      else if (event.shiftKey && event.key === 'ArrowLeft') pan(step, 0);
      else if (event.shiftKey && event.key === 'ArrowRight') pan(-step, 0);
      else if (event.shiftKey && event.key === 'ArrowUp') pan(0, step);
      else if (event.shiftKey && event.key === 'ArrowDown') pan(0, -step);
      else return false;
      event.preventDefault();
      return true;
    },
  };
};
