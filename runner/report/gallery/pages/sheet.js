/*
 * A grid of any size of which only what is visible is in the document.
 * Browsers have a height at which they stop: a longer grid is scrolled through a shorter one (see `place`).
 */

app.makeSheet = (node, actions) => {
  const {el} = app;
  const MOST = 6_000_000; // pixels; well below every browser's limit
  const EXTRA = 1; // rows and columns beyond the edge
  let plan = null;
  let rows = new Map();
  let heads = new Map();
  let active = {row: 0, column: 0};
  let frame = 0;
  let top = 0; // where in the whole grid the window begins, in pixels
  let seen = 0; // the scroll position that `top` was last reckoned from

  const head = el('div', {class: 'heads', role: 'row', 'aria-rowindex': '1'});
  const body = el('div', {class: 'body', role: 'presentation'});
  node.append(head, body);
  node.setAttribute('role', 'grid');
  node.setAttribute('aria-multiselectable', 'true');

  const total = () => plan.rows * plan.height;
  const length = () => Math.min(total(), MOST);
  const room = () => Math.max(1, node.clientHeight - plan.headHeight);
  const inner = () => node.clientWidth - plan.headWidth;

  // Small steps of scrolling are steps of the grid; long ones go to the same share of it.
  function place() {
    const now = node.scrollTop;
    if (total() <= MOST) {
      top = now;
    } else {
      const step = now - seen;
      const share = now / Math.max(1, length() - room());
      const most = total() - room();
      const atEnd = now <= 0 || share >= 1;
      top = Math.abs(step) > room() * 2 || atEnd ? share * most : top + step;
      top = Math.min(most, Math.max(0, top));
    }
    seen = now;
  }

  function scrollTo(to) {
    const most = Math.max(0, total() - room());
    top = Math.min(most, Math.max(0, to));
    node.scrollTop = total() <= MOST ? top : (top / most) * (length() - room());
    seen = node.scrollTop;
  }

  function draw() {
    frame = 0;
    if (!plan || node.clientHeight === 0) return;
    const firstRow = Math.max(0, Math.floor(top / plan.height) - EXTRA);
    const lastRow = Math.min(plan.rows - 1, Math.floor((top + room()) / plan.height) + EXTRA);
    const left = node.scrollLeft;
    const firstColumn = Math.max(0, Math.floor(left / plan.width) - EXTRA);
    const lastColumn = Math.min(plan.columns - 1, Math.floor((left + inner()) / plan.width) + EXTRA);
    const within = (n, first, last) => n >= first && n <= last;

    for (const [n, row] of rows) {
      if (!within(n, firstRow, lastRow) && n !== active.row) {
        row.node.remove();
        rows.delete(n);
      }
    }
    const shift = seen - top;
    const wanted = new Set();
    for (let n = firstRow; n <= lastRow; n += 1) wanted.add(n);
    if (active.row < plan.rows) wanted.add(active.row);
    for (const n of [...wanted].sort((a, b) => a - b)) drawRow(n, shift, firstColumn, lastColumn, within(n, firstRow, lastRow));

    for (const [n, each] of heads) {
      if (!within(n, firstColumn, lastColumn)) {
        each.remove();
        heads.delete(n);
      }
    }
    if (plan.headHeight) {
      for (let n = firstColumn; n <= lastColumn; n += 1) {
        if (heads.has(n)) continue;
        const each = plan.columnHead(n);
        each.setAttribute('role', 'columnheader');
        each.setAttribute('aria-colindex', n + 2);
        each.style.left = `${plan.headWidth + n * plan.width}px`;
        each.style.width = `${plan.width}px`;
        heads.set(n, each);
        head.append(each);
      }
    }
    node.dataset.first = firstRow;
  }

  function drawRow(n, shift, firstColumn, lastColumn, isVisible) {
    let row = rows.get(n);
    if (!row) {
      row = {node: el('div', {class: 'line', role: 'row', 'aria-rowindex': n + (plan.headHeight ? 2 : 1)}), cells: new Map()};
      row.node.style.height = `${plan.height}px`;
      if (plan.headWidth) {
        const title = plan.rowHead(n);
        title.setAttribute('role', 'rowheader');
        title.setAttribute('aria-colindex', '1');
        title.style.width = `${plan.headWidth}px`;
        row.node.append(title);
      }
      rows.set(n, row);
      // In the order of the grid, for those who hear it.
      const after = [...rows.keys()].filter((other) => other > n).sort((a, b) => a - b)[0];
      body.insertBefore(row.node, after === undefined ? null : rows.get(after).node);
    }
    const y = n * plan.height + shift;
    if (row.y !== y) row.node.style.transform = `translateY(${row.y = y}px)`;
    const isKept = (column) => n === active.row && column === active.column;
    for (const [column, cell] of row.cells) {
      if ((!isVisible || column < firstColumn || column > lastColumn) && !isKept(column)) {
        cell.remove();
        row.cells.delete(column);
      }
    }
    const columns = [];
    if (isVisible) for (let column = firstColumn; column <= lastColumn; column += 1) columns.push(column);
    if (n === active.row && !columns.includes(active.column) && active.column < plan.columns) columns.push(active.column);
    for (const column of columns) {
      if (row.cells.has(column)) continue;
      const tile = plan.tileAt(n, column);
      if (tile === undefined) continue; // beyond the last one
      const cell = el('div', {
        class: tile ? 'cell' : 'cell none', role: 'gridcell', 'aria-colindex': column + (plan.headWidth ? 2 : 1),
        tabindex: isKept(column) ? '0' : '-1', 'data-row': n, 'data-column': column, 'data-id': tile?.id,
      });
      cell.style.left = `${plan.headWidth + column * plan.width}px`;
      cell.style.width = `${plan.width}px`;
      if (tile) plan.fill(cell, tile);
      else cell.setAttribute('aria-label', 'nothing');
      row.cells.set(column, cell);
      row.node.append(cell);
    }
  }

  const later = () => {
    frame ||= requestAnimationFrame(draw);
  };

  function clear() {
    rows.forEach((row) => row.node.remove());
    heads.forEach((each) => each.remove());
    rows = new Map();
    heads = new Map();
  }

  function move(row, column, {focus = true} = {}) {
    if (!plan.rows) return;
    place(); // the browser may have scrolled since, and not said so yet
    const before = rows.get(active.row)?.cells.get(active.column);
    active = {row: Math.min(plan.rows - 1, Math.max(0, row)), column: Math.min(plan.columns - 1, Math.max(0, column))};
    while (active.column > 0 && plan.tileAt(active.row, active.column) === undefined) active.column -= 1;
    if (before) before.tabIndex = -1;
    const y = active.row * plan.height;
    if (y < top) scrollTo(y);
    else if (y + plan.height > top + room()) scrollTo(y + plan.height - room());
    const x = active.column * plan.width;
    if (x < node.scrollLeft) node.scrollLeft = x;
    else if (x + plan.width > node.scrollLeft + inner()) node.scrollLeft = x + plan.width - inner();
    draw();
    const cell = rows.get(active.row)?.cells.get(active.column);
    if (!cell) return;
    cell.tabIndex = 0;
    if (focus) cell.focus({preventScroll: true});
  }

  node.addEventListener('scroll', () => {
    place();
    later();
  }, {passive: true});
  // A long way of small steps leaves the scroll bar behind: it is put where it belongs when all is quiet.
  let quiet = null;
  node.addEventListener('scroll', () => {
    clearTimeout(quiet);
    if (plan && total() > MOST) quiet = setTimeout(() => { scrollTo(top); draw(); }, 200);
  }, {passive: true});
  let wide = 0;
  new ResizeObserver(() => {
    if (node.clientWidth && node.clientWidth !== wide) {
      wide = node.clientWidth;
      actions.onResize();
    }
    later();
  }).observe(node);

  const cellOf = (target) => target.closest?.('.cell');
  const tileOf = (cell) => (cell?.dataset.id === undefined ? null : app.byId(cell.dataset.id));

  node.addEventListener('click', (event) => {
    const cell = cellOf(event.target);
    if (!cell) return;
    move(Number(cell.dataset.row), Number(cell.dataset.column));
    const tile = tileOf(cell);
    if (!tile) return;
    const tool = event.target.closest('button')?.dataset.tool;
    if (tool) actions.onTool(tool, tile);
    else if (event.shiftKey || event.ctrlKey || event.metaKey) actions.onTool('select', tile);
    else actions.onOpen(tile);
  });

  node.addEventListener('keydown', (event) => {
    const cell = cellOf(event.target);
    if (!cell || event.altKey) return;
    const {row, column} = active;
    const page = Math.max(1, Math.floor(room() / plan.height));
    const whole = event.ctrlKey || event.metaKey;
    const to = {
      ArrowLeft: [row, column - 1], ArrowRight: [row, column + 1], ArrowUp: [row - 1, column], ArrowDown: [row + 1, column],
      PageUp: [row - page, column], PageDown: [row + page, column],
      Home: whole ? [0, 0] : [row, 0], End: whole ? [plan.rows - 1, plan.columns - 1] : [row, plan.columns - 1],
    }[event.key];
    if (to) {
      // Lines of a plain grid go on from one to the next.
      if (plan.flows && event.key === 'ArrowRight' && plan.tileAt(row, column + 1) === undefined && row < plan.rows - 1) move(row + 1, 0);
      else if (plan.flows && event.key === 'ArrowLeft' && column === 0 && row > 0) move(row - 1, plan.columns - 1);
      else if (!whole || event.key === 'Home' || event.key === 'End') move(...to);
      event.preventDefault();
      return;
    }
    const tile = tileOf(cell);
    if (!tile || whole) return;
    if (event.key === 'Enter') actions.onOpen(tile);
    else if (event.key === ' ') actions.onTool('select', tile);
    else if (event.key === 'p') actions.onTool('pick', tile);
    else return;
    event.preventDefault();
  });

  return {
    // A new plan: {rows, columns, width, height, headWidth, headHeight, flows, label, corner, tileAt, rowHead, columnHead, fill}.
    set(next, {keep = true} = {}) {
      const share = plan && keep && total() ? top / total() : 0;
      const hadFocus = node.contains(document.activeElement);
      clear();
      plan = next;
      node.setAttribute('aria-label', plan.label);
      node.setAttribute('aria-rowcount', plan.rows + (plan.headHeight ? 1 : 0));
      node.setAttribute('aria-colcount', plan.columns + (plan.headWidth ? 1 : 0));
      head.hidden = !plan.headHeight;
      head.style.height = `${plan.headHeight}px`;
      const width = `${plan.headWidth + plan.columns * plan.width}px`;
      head.style.width = width;
      body.style.width = width;
      body.style.height = `${length()}px`;
      head.replaceChildren();
      if (plan.headHeight && plan.headWidth) {
        const corner = el('div', {class: 'corner', role: 'columnheader', 'aria-colindex': '1'}, plan.corner);
        corner.style.width = `${plan.headWidth}px`;
        head.append(corner);
      }
      if (!keep) active = {row: 0, column: 0};
      active = {row: Math.min(active.row, Math.max(0, plan.rows - 1)), column: Math.min(active.column, Math.max(0, plan.columns - 1))};
      while (active.column > 0 && plan.tileAt(active.row, active.column) === undefined) active.column -= 1;
      scrollTo(share * total());
      draw();
      if (hadFocus && plan.rows) move(active.row, active.column);
    },
    // One tile anew, if it is in the document.
    refresh(tile) {
      for (const row of rows.values()) {
        for (const cell of row.cells.values()) {
          if (cell.dataset.id === String(tile.id)) plan.mark(cell, tile);
        }
      }
    },
    reveal: (row, column, options) => move(row, column, options),
    focus: () => move(active.row, active.column),
  };
};
