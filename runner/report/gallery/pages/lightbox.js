/*
 * One image large, with all that is known of it; and two to four beside each other.
 * Both are dialogs of the browser's own: they keep the focus inside, and give it back when they close.
 */

(() => {
  const {el, data} = app;
  const kilo = (bytes) => `${Math.round(bytes / 1024).toLocaleString('en-US')} KB`;

  // What a manifest needs to ask for this image again. JSON's texts are YAML's, but for what YAML cannot print.
  function yaml(tile) {
    const text = (value) => JSON.stringify(value)
      .replace(/[\u007f-\u009f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]/gu, (sign) => `\\u${sign.charCodeAt(0).toString(16).padStart(4, '0')}`);
    const {model, ...settings} = tile.settings;
    const lines = [`model: ${text(model)}`, 'settings:'];
    for (const [name, value] of Object.entries(settings)) {
      if (value !== null) lines.push(`  ${name}: ${typeof value === 'number' ? value : text(value)}`);
    }
    lines.push('prompts:', `  - id: ${text(tile.prompt_id)}`);
    if (/\{[{%#]/.test(tile.prompt)) {
      // Braces that mean nothing to the provider would be a template's to a manifest.
      lines.push('    text: "{{ words }}"', `    vars: {words: ${text(tile.prompt)}}`);
    } else {
      lines.push(`    text: ${text(tile.prompt)}`);
    }
    if (tile.edit) lines.push('# an edit: the pictures that it started from are to be named here as well');
    return `${lines.join('\n')}\n`;
  }

  function makeDialog(id, label) {
    const node = el('dialog', {id, 'aria-label': label, class: 'over'},
      el('div', {class: 'unseen', 'aria-live': 'polite'}), el('div', {class: 'toasts'}));
    document.body.append(node);
    return node;
  }

  const closer = (dialog) => el('button', {
    type: 'button', class: 'icon close', 'aria-label': 'Close', title: 'Close (Esc)', onclick: () => dialog.close(),
  }, '✕');

  // The lightbox.

  const box = makeDialog('lightbox', 'Image');
  const stage = el('div', {class: 'show'});
  const facts = el('div', {class: 'facts', tabindex: '0', role: 'region', 'aria-label': 'About this image'});
  const place = el('p', {class: 'place'});
  const step = (by, label, sign) => el('button', {
    type: 'button', class: 'icon', 'aria-label': label, title: label, onclick: () => go(at + by),
  }, sign);
  const back = step(-1, 'Previous image', '←');
  const forth = step(1, 'Next image', '→');
  const zoomers = [['Zoom out', '−', () => panes?.zoom(1 / 1.5)], ['Zoom in', '+', () => panes?.zoom(1.5)],
    ['Whole image', '⤢', () => panes?.reset()]].map(([label, sign, run]) => el('button', {
    type: 'button', class: 'icon', 'aria-label': label, title: label, onclick: run,
  }, sign));
  box.append(
    el('div', {class: 'left'}, el('div', {class: 'strip'}, back, place, forth, el('span', {class: 'gap'}), zoomers, closer(box)), stage),
    facts);
  let list = [];
  let at = 0;
  let panes = null;

  function go(to) {
    if (to < 0 || to >= list.length) return;
    at = to;
    const tile = list[at];
    panes?.destroy();
    const both = tile.composite ? [tile, {...tile, image: tile.composite, relatives: []}] : [tile];
    panes = app.panes(stage, both, tile.composite ? {
      labels: ['As it came', 'Pasted onto the original'],
      alts: [app.describe(tile), `${app.describe(tile)}, pasted onto the original`],
    } : {});
    place.textContent = `${(at + 1).toLocaleString('en-US')} of ${list.length.toLocaleString('en-US')}`;
    back.disabled = at === 0;
    forth.disabled = at === list.length - 1;
    facts.replaceChildren(...about(tile));
    facts.scrollTop = 0;
    app.state.set('tile', tile.short);
    app.announce(app.describe(tile));
    for (const near of [list[at + 1], list[at - 1]]) if (near?.image) new Image().src = near.image;
  }

  function about(tile) {
    const rows = [];
    const row = (name, value) => value !== null && value !== undefined && value !== '' && rows.push(
      el('dt', {}, name), el('dd', {}, el('bdi', {}, String(value))));
    row('status', app.STATUS_WORDS[tile.status]);
    row('cost', app.money(tile.cost));
    if (tile.in_doubt) row('in doubt', app.money(tile.in_doubt));
    if (tile.model) row('made by', `${tile.model}${tile.simulated ? ' (simulated)' : ''}`);
    const told = {...tile.settings, ...tile.values};
    for (const [name, value] of Object.entries(told)) row(name === 'model' ? 'wanted model' : name.replaceAll('_', ' '), value);
    row('sample', tile.sample);
    if (tile.width) row('pixels', `${tile.width} × ${tile.height}`);
    if (tile.bytes) row('file size', kilo(tile.bytes));
    row('made', tile.created?.replace('T', ' ').replace('+00:00', ' UTC'));
    row('file', tile.name);
    row('prompt id', tile.prompt_id);
    row('id', tile.short);
    row('key', tile.key);
    const tools = app.tileTools?.(tile) ?? [];
    return [
      el('h2', {}, el('bdi', {}, tile.prompt_id)),
      app.trouble(tile),
      el('p', {class: 'prompt', dir: 'auto'}, tile.prompt),
      el('div', {class: 'row'},
        tools,
        el('button', {type: 'button', onclick: () => app.copy(tile.prompt, 'prompt')}, 'Copy prompt'),
        el('button', {type: 'button', onclick: () => app.copy(yaml(tile), 'settings')}, 'Copy settings (YAML)')),
      tile.relatives.length ? family(tile) : null,
      el('dl', {}, rows),
    ].filter(Boolean);
  }

  // What it was made from, and what it became.
  function family(tile) {
    const one = (other) => {
      const words = {before: 'Before', after: 'After'}[other.side];
      const pair = other.side === 'before' ? [other, tile] : [tile, other];
      return el('li', {},
        other.thumb ? el('img', {src: other.thumb, alt: `${words}: ${app.variantText(other)}`, loading: 'lazy', decoding: 'async'})
          : el('span', {class: 'blank'}, app.STATUS_WORDS[other.status]),
        el('div', {},
          el('strong', {}, words), el('br'),
          el('bdi', {}, app.variantText(other)), el('br'),
          el('span', {class: 'soft'}, 'job ', el('bdi', {}, other.job), ` · ${app.money(other.cost)}`)),
        other.image && tile.image && el('button', {
          type: 'button', onclick: () => compare(pair, ['Before', 'After']),
        }, 'Before / after'));
    };
    return el('ul', {class: 'family', 'aria-label': 'Before and after'}, tile.relatives.map(one));
  }

  box.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest('input, textarea')) return;
    if (panes?.key(event)) return;
    const to = {ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: list.length - 1}[event.key];
    if (to === undefined) {
      app.tileKey?.(event, list[at]);
      return;
    }
    event.preventDefault();
    go(to);
  });
  box.addEventListener('close', () => {
    panes?.destroy();
    panes = null;
    app.state.set('tile', null);
    app.onClosed?.(list[at]);
  });

  app.openLightbox = (tile, tiles) => {
    list = tiles?.includes(tile) ? tiles : app.shownTiles?.() ?? app.tiles;
    at = list.indexOf(tile);
    if (at < 0) {
      list = [tile];
      at = 0;
    }
    if (!box.open) box.showModal();
    go(at);
    facts.focus({preventScroll: true});
  };
  app.refreshLightbox = () => {
    if (!box.open) return;
    const name = document.activeElement?.dataset.tool;
    facts.replaceChildren(...about(list[at]));
    if (name) facts.querySelector(`[data-tool="${name}"]`)?.focus();
  };

  // Why there is no image, or what else is to be known.
  app.trouble = (tile) => {
    if (!tile.error_code && !tile.error) return null;
    return el('p', {class: `trouble ${tile.status}`},
      el('strong', {}, el('bdi', {}, tile.error_code ?? app.STATUS_WORDS[tile.status])), ' ',
      el('span', {dir: 'auto'}, tile.error ?? ''));
  };

  // What stands where an image is missing.
  app.blank = (tile) => el('div', {class: `blank ${tile.status ?? ''}`},
    el('strong', {}, app.STATUS_WORDS[tile.status] ?? 'no image'),
    tile.error_code && el('bdi', {class: 'code'}, tile.error_code),
    tile.error && el('span', {class: 'reason', dir: 'auto'}, app.clip(tile.error, 300)));

  // Side by side.

  const beside = makeDialog('compare', 'Images side by side');
  const ground = el('div', {class: 'show'});
  const tools = [['Zoom out', '−', () => together?.zoom(1 / 1.5)], ['Zoom in', '+', () => together?.zoom(1.5)],
    ['Whole images', '⤢', () => together?.reset()]].map(([label, sign, run]) => el('button', {
    type: 'button', class: 'icon', 'aria-label': label, title: label, onclick: run,
  }, sign));
  const told = el('p', {class: 'place', tabindex: '-1'});
  beside.append(el('div', {class: 'left'},
    el('div', {class: 'strip'}, told, el('span', {class: 'gap'}), tools, closer(beside)), ground));
  let together = null;

  // In what they differ; what they share is said once, above.
  function differences(tiles) {
    const words = (tile) => (tile.values ? {prompt: tile.prompt_id, ...tile.settings, ...tile.values, sample: tile.sample}
      : {prompt: tile.prompt_id, job: tile.job, model: tile.model, size: tile.size, quality: tile.quality});
    const all = tiles.map(words);
    const names = [...new Set(all.flatMap(Object.keys))].filter((name) => all.every((each) => name in each));
    const differing = names.filter((name) => new Set(all.map((each) => each[name])).size > 1);
    return all.map((each) => differing.map((name) => `${name} ${each[name] || '—'}`).join(' · '));
  }

  function compare(tiles, names) {
    const differ = differences(tiles);
    const labels = tiles.map((tile, n) => [names?.[n], differ[n], app.money(tile.cost ?? 0)].filter(Boolean).join(' · '));
    together?.destroy();
    together = app.panes(ground, tiles, {labels});
    const ids = [...new Set(tiles.map((tile) => tile.prompt_id))];
    told.replaceChildren(ids.length === 1 ? el('bdi', {}, ids[0]) : `${tiles.length} images`);
    if (!beside.open) beside.showModal();
    told.focus();
    app.announce(`${tiles.length} images side by side`);
  }

  app.openCompare = (tiles) => compare(tiles);
  beside.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    together?.key(event);
    const arrows = {ArrowLeft: 1, ArrowRight: 1, ArrowUp: 1, ArrowDown: 1};
    if (arrows[event.key] && !event.defaultPrevented) {
      // Without Shift as well: there is nowhere else to go.
      together?.key({key: event.key, shiftKey: true, preventDefault: () => event.preventDefault()});
    }
  });
  beside.addEventListener('close', () => {
    together?.destroy();
    together = null;
  });
  for (const dialog of [box, beside]) {
    dialog.addEventListener('click', (event) => event.target === dialog && dialog.close());
  }
})();
