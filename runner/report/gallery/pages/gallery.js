/*
 * The gallery: prompts by variants, or a plain grid; search, filters and order; picks, and what is compared.
 */

(() => {
  const {el, data, tiles, state} = app;
  if (data.review && !tiles.length) return; // a blind review shows no image before it is judged

  const node = document.getElementById('gallery');
  const MOST_COLUMNS = 1000;
  const MOST_BESIDE = 4;
  const SIZES = {least: 88, usual: 176, most: 384};
  const number = (value) => value.toLocaleString('en-US');
  const plural = (count, word) => `${number(count)} ${word}${count === 1 ? '' : 's'}`;
  const stars = data.results?.tile_stars ?? {};
  const starsOf = (tile) => stars[tile.id] ?? -1;

  // What can be filtered by: what tiles differ in.

  const axes = data.axes.filter((axis) => axis.values.length > 1 || tiles.some((tile) => !tile.values[axis.name]))
    .map((axis) => ({name: axis.name, values: axis.values, of: (tile) => tile.values[axis.name]}));
  if (data.samples > 1) {
    const values = [...new Set(tiles.map((tile) => tile.sample))].sort((a, b) => a - b).map(String);
    axes.push({name: 'sample', values, of: (tile) => String(tile.sample)});
  }
  const picks = new Set(app.recall(`picks:${data.job}`) ?? []);
  const chosen = new Set(); // tiles, in the order in which they were selected
  const facets = [
    {name: 'status', values: data.statuses, of: (tile) => tile.status, word: (value) => app.STATUS_WORDS[value]},
    ...axes,
    {name: 'made by', values: data.models, of: (tile) => tile.model ?? ''},
    {name: 'promotion', values: ['made again', 'not made again'], of: (tile) => (tile.relatives.length ? 'made again' : 'not made again')},
    {name: 'picks', values: ['picked', 'not picked'], of: (tile) => (picks.has(tile.short) ? 'picked' : 'not picked')},
  ].filter((facet) => {
    const found = new Set(tiles.map(facet.of));
    facet.values = [...facet.values.filter((value) => found.has(value) || facet.name === 'picks'), ...(found.has('') && facet.name !== 'made by' ? [''] : [])];
    return facet.values.length > 1;
  });

  const orders = [
    ['manifest', 'as in the manifest', null],
    ['dear', 'dearest first', (a, b) => b - a, (tile) => tile.cost, (costs) => costs.reduce((sum, cost) => sum + cost, 0)],
    ['cheap', 'cheapest first', (a, b) => a - b, (tile) => tile.cost, (costs) => costs.reduce((sum, cost) => sum + cost, 0)],
  ];
  if (Object.keys(stars).length) orders.push(['stars', 'most stars first', (a, b) => b - a, starsOf, (all) => Math.max(...all)]);

  // What is shown now; all of it is in the address.

  const now = {};
  const list = (text) => (text ? text.split(',').map(decodeURIComponent) : []);
  function read() {
    now.query = state.get('q') ?? '';
    now.order = orders.find(([name]) => name === state.get('sort')) ?? orders[0];
    const size = Number(state.get('px'));
    now.size = size >= SIZES.least && size <= SIZES.most ? size : null;
    now.rows = new Set(state.get('rows') === null ? usualRows() : list(state.get('rows')));
    now.view = ['matrix', 'grid'].includes(state.get('view')) ? state.get('view') : usualView();
    now.filters = new Map(facets.map((facet) => [facet.name, new Set(list(state.get(`is.${facet.name}`)))]));
  }

  // Axes of which there are too many combinations go down instead of across, the largest first.
  function usualRows() {
    const across = [...axes];
    const down = [];
    while (across.reduce((count, axis) => count * axis.values.length, 1) > MOST_COLUMNS) {
      const largest = across.reduce((a, b) => (b.values.length > a.values.length ? b : a));
      across.splice(across.indexOf(largest), 1);
      down.push(largest.name);
    }
    return down;
  }
  const usualView = () => (axes.some((axis) => !now.rows.has(axis.name)) ? 'matrix' : 'grid');

  // Controls.

  const search = el('input', {type: 'search', id: 'search', placeholder: 'Search prompts and ids', 'aria-label': 'Search prompts and ids', autocomplete: 'off', spellcheck: 'false'});
  let typing = null;
  search.addEventListener('input', () => {
    clearTimeout(typing);
    typing = setTimeout(() => { state.set('q', search.value); now.query = search.value; apply(); }, 120);
  });
  search.addEventListener('keydown', (event) => {
    if (event.key === 'ArrowDown' || event.key === 'Enter') { sheet.focus(); event.preventDefault(); }
  });
  const viewButton = (view, label) => el('button', {type: 'button', 'data-view': view, onclick: () => {
    now.view = view;
    state.set('view', view);
    layOut({keep: false});
  }}, label);
  const viewButtons = [viewButton('matrix', 'Matrix'), viewButton('grid', 'Grid')];
  const panel = document.getElementById('panel');
  const opener = el('button', {type: 'button', id: 'opener', 'aria-expanded': 'false', 'aria-controls': 'panel', onclick: () => open(panel.hidden)}, 'Filters');
  function open(isOpen) {
    panel.hidden = !isOpen;
    opener.setAttribute('aria-expanded', String(isOpen));
    document.getElementById('tools').classList.toggle('open', isOpen);
  }
  const sort = el('select', {id: 'sort', 'aria-label': 'Order', onchange: () => {
    now.order = orders.find(([name]) => name === sort.value);
    state.set('sort', sort.value === 'manifest' ? null : sort.value);
    apply();
  }}, orders.map(([name, label]) => el('option', {value: name}, label)));
  const size = el('input', {type: 'range', id: 'size', min: SIZES.least, max: SIZES.most, step: 8, 'aria-label': 'Size of the thumbnails', oninput: () => {
    now.size = Number(size.value);
    state.set('px', size.value);
    layOut();
  }});
  document.getElementById('tools').append(
    search,
    el('div', {class: 'both', role: 'group', 'aria-label': 'Arrangement'}, viewButtons),
    opener,
    el('div', {class: 'more'}, el('label', {}, el('span', {}, 'Order'), sort), el('label', {}, el('span', {}, 'Size'), size)),
  );

  const counts = new Map();
  function buildPanel() {
    const groups = facets.map((facet) => {
      const boxes = facet.values.map((value) => {
        const count = el('span', {class: 'n'});
        counts.set(`${facet.name}\u0000${value}`, count);
        return el('label', {class: 'chip'},
          el('input', {type: 'checkbox', 'data-facet': facet.name, 'data-value': value, onchange: (event) => {
            const wanted = now.filters.get(facet.name);
            if (event.target.checked) wanted.add(value);
            else wanted.delete(value);
            state.set(`is.${facet.name}`, [...wanted].map(encodeURIComponent).join(','));
            apply();
          }}),
          el('bdi', {}, facet.word?.(value) ?? (value || 'none')), count);
      });
      return el('fieldset', {}, el('legend', {}, el('bdi', {}, facet.name.replaceAll('_', ' '))), el('div', {class: 'chips'}, boxes));
    });
    const arrange = axes.length > 0 && el('fieldset', {id: 'arrange'}, el('legend', {}, 'columns of the matrix'), el('div', {class: 'chips'},
      axes.map((axis) => el('label', {class: 'chip'},
        el('input', {type: 'checkbox', 'data-axis': axis.name, onchange: (event) => {
          if (event.target.checked) now.rows.delete(axis.name);
          else now.rows.add(axis.name);
          const usual = usualRows();
          const isUsual = usual.length === now.rows.size && usual.every((name) => now.rows.has(name));
          const words = [...now.rows].map(encodeURIComponent).join(',') || ',';
          state.set('rows', isUsual ? null : words);
          state.set('view', now.view);
          layOut({keep: false});
        }}), el('bdi', {}, axis.name.replaceAll('_', ' '))))));
    panel.append(...groups, ...(arrange ? [arrange] : []), el('p', {class: 'soft keys'},
      'Keys: arrows move, Enter opens, Space selects for comparing, P picks, C compares, / searches.'));
  }

  function count(some = facets) {
    const all = new Map();
    for (const facet of some) for (const tile of tiles) {
      const name = `${facet.name}\u0000${facet.of(tile)}`;
      all.set(name, (all.get(name) ?? 0) + 1);
    }
    for (const facet of some) for (const value of facet.values) {
      const name = `${facet.name}\u0000${value}`;
      counts.get(name).textContent = number(all.get(name) ?? 0);
    }
  }

  const countPicks = () => count(facets.filter((facet) => facet.name === 'picks'));

  function showControls() {
    search.value = now.query;
    sort.value = now.order[0];
    size.value = now.size ?? SIZES.usual;
    panel.querySelectorAll('[data-facet]').forEach((box) => {
      box.checked = now.filters.get(box.dataset.facet).has(box.dataset.value);
    });
    panel.querySelectorAll('[data-axis]').forEach((box) => { box.checked = !now.rows.has(box.dataset.axis); });
  }

  // From all tiles to those that are wanted, in order.

  let shown = tiles;
  let ordered = tiles; // as they are laid out, one after another
  const haystacks = new Map();
  const haystack = (tile) => {
    let text = haystacks.get(tile.id);
    if (text === undefined) {
      text = `${tile.prompt}\n${tile.prompt_id}\n${tile.key}\n${tile.name}`.toLowerCase();
      haystacks.set(tile.id, text);
    }
    return text;
  };

  function isWanted(tile, words) {
    for (const facet of facets) {
      const wanted = now.filters.get(facet.name);
      if (wanted.size && !wanted.has(facet.of(tile))) return false;
    }
    return words.every((word) => haystack(tile).includes(word));
  }

  function apply({quiet = false, keep = false} = {}) {
    const words = now.query.toLowerCase().split(/\s+/).filter(Boolean);
    shown = tiles.filter((tile) => isWanted(tile, words));
    const [, , by, of] = now.order;
    if (by) shown = shown.map((tile) => [of(tile), tile]).sort((a, b) => by(a[0], b[0]) || a[1].index - b[1].index).map(([, tile]) => tile);
    layOut({keep});
    tell(quiet);
  }

  const found = document.getElementById('found');
  function tell(quiet) {
    const done = shown.filter((tile) => tile.status === 'done');
    const cost = shown.reduce((sum, tile) => sum + tile.cost, 0);
    const active = facets.filter((facet) => now.filters.get(facet.name).size);
    const words = [
      shown.length === tiles.length ? plural(tiles.length, 'image') : `${number(shown.length)} of ${plural(tiles.length, 'image')}`,
      cost && app.money(cost),
      cost && done.length && `${app.shortMoney(doneCost(done) / done.length)} an image`,
    ].filter(Boolean).join(' · ');
    found.replaceChildren(el('span', {id: 'count'}, words),
      ...active.map((facet) => el('button', {type: 'button', class: 'active', 'aria-label': `Remove the filter ${facet.name}`, onclick: () => {
        now.filters.get(facet.name).clear();
        state.set(`is.${facet.name}`, null);
        showControls();
        apply();
        opener.focus();
      }}, el('bdi', {}, `${facet.name.replaceAll('_', ' ')}: ${[...now.filters.get(facet.name)].map((value) => facet.word?.(value) ?? (value || 'none')).join(', ')}`), ' ✕')),
      active.length || now.query ? el('button', {type: 'button', class: 'active', id: 'clear', onclick: clearAll}, 'Show all') : '');
    opener.textContent = active.length ? `Filters (${active.length})` : 'Filters';
    if (!quiet) app.announce(words);
  }
  const doneCost = (done) => done.reduce((sum, tile) => sum + tile.cost, 0);

  function clearAll() {
    now.query = '';
    now.filters.forEach((wanted) => wanted.clear());
    state.names().filter((name) => name === 'q' || name.startsWith('is.')).forEach((name) => state.set(name, null));
    showControls();
    apply();
    search.focus();
  }

  // Where each tile is, in either arrangement.

  const places = new Map();
  const sheet = app.makeSheet(document.getElementById('sheet'), {
    onOpen: (tile) => app.openLightbox(tile, ordered),
    onTool: tool,
    onResize: () => now.filters && layOut(),
  });
  const empty = el('p', {class: 'empty', hidden: true}, 'No image is like that. ', el('button', {type: 'button', onclick: clearAll}, 'Show all'));
  document.getElementById('sheet').after(empty);

  function layOut({keep = true} = {}) {
    if (node.hidden) return;
    const width = document.getElementById('sheet').clientWidth;
    if (!width) return;
    places.clear();
    for (const button of viewButtons) button.setAttribute('aria-pressed', String(button.dataset.view === now.view));
    empty.hidden = shown.length > 0;
    sheet.set((now.view === 'matrix' && matrix(width)) || grid(width), {keep});
  }

  // How high a picture is for its width, of the highest there is; a square is enough for those that are higher still.
  const ratio = Math.min(1, Math.max(0.5, ...tiles.map((tile) => {
    const [width, height] = tile.width ? [tile.width, tile.height] : tile.settings.size.split('x').map(Number);
    return height ? height / width : 1;
  }).reduce((found, each) => found.add(Math.min(1, each)), new Set())));
  let high = 0; // of a thumbnail, in pixels
  function sized(width, count) {
    const usual = count ? Math.min(240, Math.max(136, Math.floor(width / count) - 16)) : SIZES.usual;
    const wide = now.size ?? usual;
    high = Math.round(wide * ratio);
    return wide;
  }

  function grid(wide) {
    const gap = 16;
    const place = document.getElementById('sheet');
    place.classList.add('plain');
    const {paddingLeft, paddingRight} = getComputedStyle(place);
    const width = wide - parseFloat(paddingLeft) - parseFloat(paddingRight);
    const columns = Math.max(1, Math.floor((width - gap) / (sized(width) + gap)));
    const cell = Math.floor((width - 1) / columns);
    high = Math.round(Math.max(high, (cell - gap) * ratio));
    ordered = shown;
    shown.forEach((tile, n) => places.set(tile.id, [Math.floor(n / columns), n % columns]));
    const captions = app.axes.length > 0 || data.samples > 1;
    return {
      rows: Math.ceil(shown.length / columns), columns, width: cell, height: high + (captions ? 64 : 46),
      headWidth: 0, headHeight: 0, flows: true, label: `Images of the job ${data.job}`,
      tileAt: (row, column) => (column < columns ? shown[row * columns + column] : undefined),
      fill: (place, tile) => fill(place, tile, captions), mark,
    };
  }

  function matrix(width) {
    const across = axes.filter((axis) => !now.rows.has(axis.name));
    const down = axes.filter((axis) => now.rows.has(axis.name));
    const key = (some, tile) => some.map((axis) => axis.of(tile)).join('\u0000');
    const ranks = new Map(axes.map((axis) => [axis, new Map(axis.values.map((value, n) => [value, n]))]));
    const rank = (axis, tile) => ranks.get(axis).get(axis.of(tile)) ?? -1;
    const columns = new Map();
    for (const tile of shown) {
      const name = key(across, tile);
      let column = columns.get(name);
      if (!column) columns.set(name, column = {tile, rank: across.map((axis) => rank(axis, tile)), count: 0, done: 0, cost: 0, paid: 0});
      column.count += 1;
      column.cost += tile.cost;
      if (tile.status === 'done') { column.done += 1; column.paid += tile.cost; }
    }
    if (columns.size > MOST_COLUMNS) return null;
    const byRank = (a, b) => {
      for (let n = 0; n < a.rank.length; n += 1) if (a.rank[n] !== b.rank[n]) return a.rank[n] - b.rank[n];
      return 0;
    };
    const sorted = [...columns.values()].sort(byRank);
    sorted.forEach((column, n) => { column.n = n; });

    // A row is a prompt with its values of the axes that go down; of two tiles with one place, the second has a row more.
    const rows = new Map();
    for (const tile of shown) {
      const base = `${tile.prompt_id}\u0000${key(down, tile)}`;
      const column = columns.get(key(across, tile)).n;
      for (let more = 0; ; more += 1) {
        const name = `${base}\u0000${more}`;
        let row = rows.get(name);
        if (!row) rows.set(name, row = {tile, cells: new Map(), first: tile.index, rank: down.map((axis) => rank(axis, tile)), texts: new Set()});
        if (row.cells.has(column)) continue;
        row.cells.set(column, tile);
        row.first = Math.min(row.first, tile.index);
        if (row.texts.size < 2) row.texts.add(tile.prompt);
        break;
      }
    }
    let all = [...rows.values()];
    const [, , by, of, sum] = now.order;
    if (by) {
      const scored = new Map(all.map((row) => [row, sum([...row.cells.values()].map(of))]));
      all = all.sort((a, b) => by(scored.get(a), scored.get(b)) || a.first - b.first);
    } else {
      all = all.sort((a, b) => a.first - b.first);
    }
    ordered = [];
    all.forEach((row, n) => {
      for (const [column, tile] of [...row.cells].sort((a, b) => a[0] - b[0])) {
        places.set(tile.id, [n, column]);
        ordered.push(tile);
      }
    });
    document.getElementById('sheet').classList.remove('plain');
    const headWidth = Math.min(260, Math.max(112, Math.round(width * 0.24)));
    const cell = sized(width - headWidth - 8, sorted.length) + 16;
    return {
      rows: all.length, columns: sorted.length, width: cell, height: high + 44, headWidth,
      headHeight: Math.max(1, across.length) * 19 + 50,
      label: `Images of the job ${data.job}, a row for each prompt`,
      corner: el('span', {}, ['prompt', ...down.map((axis) => axis.name)].join(', ')),
      tileAt: (row, column) => all[row]?.cells.get(column) ?? null,
      rowHead: (n) => rowHead(all[n], down),
      columnHead: (n) => columnHead(sorted[n], across),
      fill: (place, tile) => fill(place, tile, false), mark,
    };
  }

  function rowHead(row, down) {
    const text = row.tile.prompt;
    return el('div', {class: 'rowhead', title: app.clip(text, 1000)},
      el('strong', {}, el('bdi', {}, row.tile.prompt_id)),
      down.map((axis) => el('span', {class: 'value'}, el('bdi', {}, axis.of(row.tile) || 'none'))),
      el('span', {class: 'words', dir: 'auto'}, app.clip(text, 400)),
      row.texts.size > 1 && el('span', {class: 'soft'}, 'the words differ by column'));
  }

  function columnHead(column, across) {
    return el('div', {class: 'columnhead'},
      across.map((axis) => el('bdi', {class: 'value', title: `${axis.name} ${axis.of(column.tile)}`}, axis.of(column.tile) || 'none')),
      !across.length && el('span', {class: 'value'}, 'all'),
      el('span', {class: 'soft'}, `${plural(column.count, 'image')} · ${app.shortMoney(column.cost)}`),
      el('span', {class: 'soft'}, column.done ? `${app.shortMoney(column.paid / column.done)} an image` : 'none done'));
  }

  // A tile.

  function fill(cell, tile, captions) {
    const thumb = el('div', {class: 'thumb'});
    thumb.style.height = `${high}px`;
    if (tile.thumb) {
      const image = el('img', {alt: app.describe(tile), loading: 'lazy', decoding: 'async', src: tile.thumb, draggable: 'false'});
      image.addEventListener('error', () => {
        if (tile.image && image.getAttribute('src') !== tile.image) image.src = tile.image;
        else thumb.replaceChildren(el('div', {class: 'blank gone'}, el('strong', {}, 'the file is not there'), el('bdi', {class: 'code'}, tile.name)));
      });
      thumb.append(image);
    } else {
      thumb.append(app.blank(tile));
    }
    const pick = el('button', {type: 'button', class: 'tool pick', 'data-tool': 'pick', tabindex: '-1'});
    const select = el('button', {type: 'button', class: 'tool select', 'data-tool': 'select', tabindex: '-1'});
    cell.append(el('div', {class: 'frame'}, thumb, pick, select,
      el('div', {class: 'caption'},
        captions !== false && el('bdi', {class: 'title'}, tile.prompt_id),
        captions && el('bdi', {class: 'soft clip'}, app.variantText(tile)),
        tile.relatives.length ? el('span', {class: 'kin', title: 'made again: before and after are in its details'}, '⇄') : null,
        tile.status !== 'done' && tile.thumb ? el('span', {class: 'soft'}, app.STATUS_WORDS[tile.status]) : null,
        stars[tile.id] !== undefined && el('span', {class: 'stars', title: 'stars'}, `★ ${stars[tile.id].toFixed(1)}`),
        el('span', {class: 'cost'}, tile.cost || tile.status === 'done' ? app.shortMoney(tile.cost) : ''))));
    mark(cell, tile);
  }

  function mark(cell, tile) {
    const isPicked = picks.has(tile.short);
    const isChosen = chosen.has(tile);
    const [pick, select] = cell.querySelectorAll('.tool');
    pick.setAttribute('aria-pressed', String(isPicked));
    pick.setAttribute('aria-label', isPicked ? 'Picked' : 'Pick');
    pick.title = isPicked ? 'Picked (P)' : 'Pick (P)';
    pick.textContent = isPicked ? '♥' : '♡';
    select.setAttribute('aria-pressed', String(isChosen));
    select.setAttribute('aria-label', isChosen ? 'Selected for comparing' : 'Select for comparing');
    select.title = 'Compare (Space)';
    select.textContent = isChosen ? '✓' : '';
    cell.setAttribute('aria-selected', String(isChosen));
    cell.classList.toggle('picked', isPicked);
  }

  // Picks and comparisons.

  function tool(what, tile) {
    if (what === 'pick') {
      if (picks.has(tile.short)) picks.delete(tile.short);
      else picks.add(tile.short);
      app.remember(`picks:${data.job}`, [...picks]);
      countPicks();
      app.announce(picks.has(tile.short) ? `picked, ${picks.size} in all` : `no longer picked, ${picks.size} in all`);
      if (now.filters.get('picks')?.size) apply({quiet: true, keep: true});
    } else {
      if (chosen.has(tile)) {
        chosen.delete(tile);
      } else if (chosen.size === MOST_BESIDE) {
        app.toast(`${MOST_BESIDE} images can be compared at once`);
        return;
      } else {
        chosen.add(tile);
      }
      app.announce(`${chosen.size} selected`);
    }
    sheet.refresh(tile);
    app.refreshLightbox();
    showTray();
  }

  const compare = () => (chosen.size > 1 ? app.openCompare([...chosen]) : app.toast('select two to four images first'));
  function letGo() {
    const before = [...chosen];
    chosen.clear();
    before.forEach(sheet.refresh);
    showTray();
  }

  const tray = document.getElementById('tray');
  function showTray() {
    const focused = document.activeElement?.id;
    const here = tiles.filter((tile) => picks.has(tile.short));
    const isIdle = !chosen.size && !here.length;
    tray.hidden = isIdle || app.current() !== 'gallery';
    tray.replaceChildren(
      chosen.size ? el('div', {class: 'row'}, el('span', {}, `${chosen.size} selected`),
        el('button', {type: 'button', class: 'primary', id: 'compare-these', disabled: chosen.size < 2, onclick: compare}, 'Compare'),
        el('button', {type: 'button', id: 'let-go', onclick: () => { letGo(); sheet.focus(); }}, 'Clear')) : '',
      here.length ? el('div', {class: 'row'}, el('span', {id: 'picked'}, `${number(here.length)} picked`),
        el('button', {type: 'button', id: 'copy-ids', title: `for: runner promote ${data.job}`, onclick: () => app.copy(here.map((tile) => `--pick ${tile.short}`).join(' '), plural(here.length, 'id'))}, 'Copy ids'),
        el('button', {type: 'button', id: 'unpick', onclick: unpick}, 'Unpick all')) : '');
    if (focused && document.activeElement === document.body) document.getElementById(focused)?.focus();
  }

  function unpick() {
    const before = [...picks];
    const put = (some) => {
      picks.clear();
      some.forEach((each) => picks.add(each));
      app.remember(`picks:${data.job}`, some);
      countPicks();
      apply({quiet: true, keep: true});
      showTray();
    };
    put([]);
    sheet.focus();
    app.toast('no image is picked any more', {label: 'Undo', run: () => put(before)});
  }

  app.tileTools = (tile) => (app.current() !== 'gallery' ? [] : [
    el('button', {type: 'button', 'data-tool': 'pick', 'aria-pressed': String(picks.has(tile.short)), onclick: () => tool('pick', tile)}, picks.has(tile.short) ? '♥ Picked' : '♡ Pick'),
    el('button', {type: 'button', 'data-tool': 'select', 'aria-pressed': String(chosen.has(tile)), onclick: () => tool('select', tile)}, chosen.has(tile) ? '✓ Selected' : 'Select to compare'),
  ]);
  app.tileKey = (event, tile) => {
    if (event.key === 'p') tool('pick', tile);
    else if (event.key === 's') tool('select', tile);
  };
  app.shownTiles = () => ordered;
  app.onClosed = (tile) => {
    const place = tile && places.get(tile.id);
    if (!place || app.current() !== 'gallery') return;
    // Unless the person has gone elsewhere meanwhile.
    const here = document.activeElement;
    sheet.reveal(...place, {focus: here === document.body || document.getElementById('sheet').contains(here)});
  };
  document.getElementById('skip').addEventListener('click', () => { app.show('gallery'); sheet.focus(); });

  // What the head of the page says.

  function facts() {
    const some = new Map();
    tiles.forEach((tile) => some.set(tile.status, (some.get(tile.status) ?? 0) + 1));
    const doubt = tiles.reduce((sum, tile) => sum + tile.in_doubt, 0);
    const words = [
      ...data.statuses.filter((status) => some.has(status)).map((status) => `${number(some.get(status))} ${app.STATUS_WORDS[status]}`),
      app.money(doneCost(tiles)),
      doubt && `${app.money(doubt)} in doubt`,
      data.shown < data.wanted && `the first ${number(data.shown)} of ${number(data.wanted)} images`,
      `as of ${data.made.replace('T', ' ').replace(/:\d\d\+00:00/, ' UTC')}`,
    ].filter(Boolean);
    const simulated = {all: 'Simulated: no real images, no real money', some: 'Some images are simulated'}[data.simulated];
    document.getElementById('facts').replaceChildren(
      simulated ? el('span', {class: 'pill', id: 'simulated'}, simulated) : '', words.join(' · '));
  }

  app.addView({
    id: 'gallery',
    title: 'Gallery',
    node,
    show() {
      apply({quiet: true, keep: true});
      showTray();
    },
    hide: () => { tray.hidden = true; },
    key(event) {
      if (event.target.closest('input, select, textarea')) return;
      if (event.key === '/') { search.focus(); event.preventDefault(); }
      else if (event.key === 'c') compare();
      else if (event.key === 'Escape' && chosen.size) { letGo(); sheet.focus(); }
    },
  });
  buildPanel();
  read();
  showControls();
  count();
  state.onChange(() => {
    read();
    showControls();
    if (!node.hidden) apply();
  });
  app.onReady(() => {
    facts();
    const wanted = state.get('tile');
    const tile = wanted && tiles.find((each) => each.short === wanted);
    if (tile) setTimeout(() => app.openLightbox(tile, ordered));
  });
})();
