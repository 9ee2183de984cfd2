'use strict';
/*
 * The page's common ground: the data as it was written, the images in it, views, and what tells a person something.
 *
 * The scripts of this page are one script, in this order: base, panes, lightbox, sheet, gallery, results, review.
 * What they share is `app`:
 *
 *   app.data            what the page was made with; app.data.results and app.data.review are as they were given
 *   app.tiles           every image that is shown, in the manifest's order (see `readTiles`)
 *   app.axes            [{name, values}]: what images differ in; app.byId(taskId) is one of the tiles, or undefined
 *   app.el(tag, attributes, ...children)     an element; a function under `onclick` and the like listens
 *   app.money(microusd), app.shortMoney(microusd)
 *   app.describe(tile), app.variantText(tile)         a tile in words: for alternative texts; for a label
 *   app.addView({id, title, node, show(), hide(), key(event)})   a tab; all but id, title and node may be left out
 *   app.show(id), app.current()               show a view; which one is shown
 *   app.announce(text), app.toast(text, action?)      action: {label, run()}
 *   app.panes(node, tiles, {labels, alts, onPick})    images side by side, with one zoom: {destroy(), reset(), zoom(by)}
 *   app.openLightbox(tile, tiles?), app.openCompare(tiles)
 *   app.remember(name, value), app.recall(name)       this browser's memory; recall is null where there is none
 *   app.state.get(name), app.state.set(name, value)   what a reload keeps, in the address
 *   app.copy(text, what)                      to the clipboard, and says so
 *   app.onReady(fn)                           once all scripts are read; in the order of the calls
 *
 * A tile that is made by hand (a view of one's own) needs `id` and `image`; all else may be left out.
 * Every text goes through textContent: nothing of a prompt is ever markup.
 */

const app = (() => {
  const data = JSON.parse(document.getElementById('data').textContent);
  const ready = [];
  const views = [];
  let shown = null;

  function el(tag, attributes, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes ?? {})) {
      if (value === null || value === undefined || value === false) continue;
      if (typeof value === 'function') node.addEventListener(name.replace(/^on/, ''), value);
      else if (name === 'class') node.className = value;
      else if (name === 'value' || name === 'checked') node[name] = value;
      else node.setAttribute(name, value === true ? '' : String(value));
    }
    for (const child of children.flat()) {
      if (child !== null && child !== undefined && child !== false) node.append(child);
    }
    return node;
  }

  function money(microusd) {
    const sign = microusd < 0 ? '-' : '';
    const amount = Math.abs(Math.round(microusd));
    const whole = Math.floor(amount / 1e6).toLocaleString('en-US');
    const decimals = String(amount % 1e6).padStart(6, '0').replace(/0+$/, '').padEnd(2, '0');
    return `${sign}$${whole}.${decimals}`;
  }

  // Where there is little room: cents above a dollar, three figures or so below.
  function shortMoney(microusd) {
    if (microusd === 0) return '$0';
    const size = Math.abs(microusd);
    const step = size >= 1e6 ? 1e4 : size >= 1e4 ? 100 : size >= 100 ? 10 : 1;
    return money(Math.round(microusd / step) * step);
  }

  // Rows as data.py writes them: a prompt's text and id are there where they are first met, and numbers afterwards.
  function readTiles() {
    const at = Object.fromEntries(data.fields.map((name, index) => [name, index]));
    const prompts = [];
    const ids = [];
    const interned = (known, value) => {
      if (typeof value === 'number') return known[value];
      known.push(value);
      return value;
    };
    return data.tiles.map((row, index) => {
      const read = (name) => row[at[name]] ?? null;
      const variant = data.variants[read('variant')];
      const values = {};
      data.axes.forEach((axis, n) => {
        values[axis.name] = variant.at[n] === null ? '' : axis.values[variant.at[n]];
      });
      const key = read('key');
      return {
        index,
        id: read('id'),
        key,
        short: key.slice(0, 10),
        prompt_id: interned(ids, read('prompt_id')),
        prompt: interned(prompts, read('prompt')),
        settings: variant.settings,
        values,
        sample: read('sample'),
        status: data.statuses[read('status')],
        name: read('name'),
        image: read('image'),
        thumb: read('thumbnail') ?? read('image'),
        composite: read('composite'),
        width: read('width'),
        height: read('height'),
        bytes: read('bytes'),
        model: read('model') === null ? null : data.models[read('model')],
        simulated: read('simulated') === 1,
        created: read('created'),
        cost: read('cost') ?? 0,
        in_doubt: read('in_doubt') ?? 0,
        error_code: read('error_code'),
        error: read('error'),
        edit: read('edit') === 1,
        relatives: [],
      };
    });
  }

  const tiles = readTiles();
  const known = new Map(tiles.map((tile) => [tile.id, tile]));
  for (const relative of data.relatives) {
    known.get(relative.task_id)?.relatives.push({
      ...relative,
      id: relative.other_task,
      short: relative.key.slice(0, 10),
      thumb: relative.thumbnail ?? relative.image,
    });
  }
  data.tiles = null;

  const STATUS_WORDS = {
    planned: 'planned', running: 'running', submitted: 'in a batch', done: 'done', in_doubt: 'in doubt',
    failed: 'failed', refused: 'refused',
  };
  const clip = (text, length) => (text.length > length ? `${Array.from(text.slice(0, length)).join('')}…` : text);

  function variantText(tile) {
    if (!tile.values) return tile.size ? `${tile.model}, ${tile.size}, ${tile.quality}` : '';
    const words = data.axes.map((axis) => tile.values[axis.name]).filter(Boolean);
    if (data.samples > 1) words.push(`sample ${tile.sample}`);
    return words.join(', ') || [tile.settings.size, tile.settings.quality].join(', ');
  }

  function describe(tile) {
    const what = tile.prompt ?? tile.prompt_id ?? 'an image';
    const status = tile.status ? `, ${STATUS_WORDS[tile.status]}` : '';
    const variant = variantText(tile);
    return `${clip(what, 160)}${variant ? ` (${variant})` : ''}${status}`;
  }

  // State in the address, after the #: written a little later, since browsers refuse too many changes.
  const state = (() => {
    const read = () => new URLSearchParams(location.hash.slice(1));
    let words = read();
    let timer = null;
    const write = () => {
      timer = null;
      const text = `#${words}`;
      if (text === location.hash || (text === '#' && !location.hash)) return;
      try {
        history.replaceState(null, '', text);
      } catch {
        location.replace(text);
      }
    };
    const listeners = [];
    window.addEventListener('hashchange', () => {
      words = read();
      listeners.forEach((listen) => listen());
    });
    window.addEventListener('pagehide', () => timer !== null && write());
    return {
      get: (name) => words.get(name),
      set(name, value) {
        if (value === null || value === '') words.delete(name);
        else words.set(name, value);
        clearTimeout(timer);
        timer = setTimeout(write, 150);
      },
      names: () => [...words.keys()],
      onChange: (listen) => listeners.push(listen),
    };
  })();

  function remember(name, value) {
    try {
      localStorage.setItem(`runner:${name}`, JSON.stringify(value));
    } catch {
      // A browser that keeps nothing: the page works, and forgets.
    }
  }

  function recall(name) {
    try {
      return JSON.parse(localStorage.getItem(`runner:${name}`));
    } catch {
      return null;
    }
  }

  // What is outside of an open dialog is neither seen nor heard: each has places of its own for what is said.
  const inFront = () => [...document.querySelectorAll('dialog[open]')].at(-1);
  let again = false;
  function announce(text) {
    again = !again;
    const live = inFront()?.querySelector('[aria-live]') ?? document.getElementById('live');
    live.textContent = again ? `${text}\u00a0` : text; // the same words twice are read twice
  }

  function toast(text, action) {
    const close = () => node.remove();
    const node = el('div', {class: 'toast'}, el('span', {}, text),
      action && el('button', {type: 'button', onclick: () => { close(); action.run(); }}, action.label));
    const place = inFront()?.querySelector('.toasts') ?? document.getElementById('toasts');
    while (place.childElementCount > 2) place.firstElementChild.remove();
    place.append(node);
    announce(text);
    setTimeout(close, action ? 8000 : 4000);
    return close;
  }

  async function copy(text, what) {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = el('textarea', {class: 'unseen', value: text});
      (inFront() ?? document.body).append(area);
      area.select();
      const copied = document.execCommand('copy');
      area.remove();
      if (!copied) {
        toast('this browser lets no page copy');
        return;
      }
    }
    toast(`${what} copied`);
  }

  function addView(view) {
    views.push(view);
    view.node.hidden = true;
    if (!view.node.isConnected) document.getElementById('views').append(view.node);
    view.node.setAttribute('role', 'tabpanel');
    view.node.setAttribute('aria-labelledby', `tab-${view.id}`);
    view.tab = el('button', {
      type: 'button', role: 'tab', id: `tab-${view.id}`, 'aria-selected': 'false', tabindex: '-1',
      onclick: (event) => {
        app.show(view.id);
        // By mouse: the arrow keys are the view's own from now on, and not the tabs'.
        if (event.detail) event.currentTarget.blur();
      },
    }, view.title);
    const tabs = document.getElementById('tabs');
    tabs.append(view.tab);
    tabs.hidden = views.length < 2;
  }

  function show(id) {
    const next = views.find((view) => view.id === id) ?? views[0];
    if (next === shown) return;
    if (shown) {
      shown.hide?.();
      shown.node.hidden = true;
      shown.tab.setAttribute('aria-selected', 'false');
      shown.tab.tabIndex = -1;
    }
    shown = next;
    next.node.hidden = false;
    next.tab.setAttribute('aria-selected', 'true');
    next.tab.tabIndex = 0;
    state.set('tab', next === views[0] ? null : next.id);
    next.show?.();
  }

  document.getElementById('tabs').addEventListener('keydown', (event) => {
    const step = {ArrowLeft: -1, ArrowRight: 1}[event.key];
    if (!step) return;
    const next = views[(views.indexOf(shown) + step + views.length) % views.length];
    show(next.id);
    next.tab.focus();
    event.preventDefault();
    event.stopPropagation();
  });

  document.addEventListener('keydown', (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
    if (document.querySelector('dialog[open]')) return;
    shown?.key?.(event);
  });

  // Light, dark, or what the system says.
  const themes = ['auto', 'light', 'dark'];
  const themeButton = document.getElementById('theme');
  function setTheme(theme) {
    document.documentElement.dataset.theme = theme;
    const told = {auto: 'as the system', light: 'light', dark: 'dark'}[theme];
    themeButton.setAttribute('aria-label', `Colours: ${told}`);
    themeButton.title = `Colours: ${told}`;
  }
  setTheme(themes.includes(recall('theme')) ? recall('theme') : 'auto');
  themeButton.addEventListener('click', () => {
    const next = themes[(themes.indexOf(document.documentElement.dataset.theme) + 1) % themes.length];
    setTheme(next);
    remember('theme', next);
    announce(themeButton.title);
  });

  document.addEventListener('DOMContentLoaded', () => {
    ready.forEach((run) => run());
    show(state.get('tab'));
  });
  state.onChange(() => show(state.get('tab')));

  return {
    data, tiles, axes: data.axes, byId: (taskId) => known.get(Number(taskId)), el, money, shortMoney, clip,
    STATUS_WORDS, variantText, describe, state, remember, recall, announce, toast, copy, addView, show,
    current: () => shown?.id, onReady: (run) => ready.push(run),
  };
})();
