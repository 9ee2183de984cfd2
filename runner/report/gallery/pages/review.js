/*
 * Reviewing: two images side by side (or one, for stars), a choice by key or button, and on to the next.
 *
 * A choice is sent at once, under a token of its own, so that one which is sent twice counts once. While the server does
 * not answer, choices are kept, here and in the browser's memory, and sent again.
 */

(() => {
  const {el} = app;
  const review = app.data.review;
  if (!review) return;
  const $ = (id) => document.getElementById(id);
  const waits = [500, 1000, 2000, 5000];

  let reviewer = null;
  let items = [];
  let pending = [];
  let answered = new Set();
  let panes = null;
  let shown = null;
  let ahead = [];
  let state = {done: 0, total: 0, skipped: 0};
  let sending = null;
  let tries = 0;
  let timer = null;
  let generation = 0;

  const idOf = (item) => item.sides.map((side) => side.id).join(' ');
  const pictureOf = (side) => app.server.address(`media/${side.id}`);
  const memory = () => `choices:${app.data.job}:${review.blind ? 'blind:' : ''}${reviewer}`;
  const keep = () => app.remember(memory(), pending.length ? pending : null);
  const makeToken = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, '0')).join('');

  // What can be said, in the order of the buttons.
  const verdicts = review.stars
    ? [1, 2, 3, 4, 5].map((stars) => ({
      keys: [String(stars)], key: String(stars), label: '★'.repeat(stars), name: `${stars} ${stars === 1 ? 'star' : 'stars'}`, verdict: 'stars', stars,
    }))
    : [
      {keys: ['ArrowLeft'], key: '←', label: 'Left wins', verdict: 'left'},
      {keys: ['ArrowUp'], key: '↑', label: 'Both are good', verdict: 'both'},
      {keys: ['ArrowDown'], key: '↓', label: 'Neither', verdict: 'neither'},
      {keys: ['ArrowRight'], key: '→', label: 'Right wins', verdict: 'right'},
    ];
  const others = [
    {keys: ['s', 'S'], key: 's', label: 'Skip', run: skip},
    {keys: ['u', 'U', 'Backspace'], key: 'u', label: 'Undo', run: undo},
  ];
  for (const each of verdicts) each.run = () => choose(each);
  const button = (each) => el('button', {
    type: 'button', 'data-does': each.verdict ? each.stars ?? each.verdict : each.label.toLowerCase(),
    'aria-label': each.name, 'aria-keyshortcuts': each.keys[0], onclick: each.run,
  }, each.label, ' ', el('kbd', {}, each.key));
  const buttons = new Map([...verdicts, ...others].map((each) => [each, button(each)]));
  $('judge-buttons').append(
    el('div', {class: 'row'}, verdicts.map((each) => buttons.get(each))),
    el('div', {class: 'row'}, others.map((each) => buttons.get(each))),
  );
  $('judge-blind').hidden = !review.blind;

  // -- who ------------------------------------------------------------------------------------

  function ask() {
    $('judging').hidden = true;
    $('who').hidden = false;
    $('reviewer').value = reviewer ?? app.recall('reviewer') ?? '';
    $('reviewer').focus();
  }

  async function begin(name) {
    clearTimeout(timer);
    const mine = ++generation;
    // Nothing of one person's is sent under the name of another.
    await sending;
    if (mine !== generation) return;
    reviewer = name;
    app.remember('reviewer', name);
    [items, answered, shown] = [[], new Set(), null];
    pending = app.recall(memory()) ?? [];
    pending.forEach((entry) => answered.add([entry.left, entry.right].filter(Boolean).join(' ')));
    // A field that is hidden keeps the keys until the next frame.
    if ($('who').contains(document.activeElement)) document.activeElement.blur();
    $('who').hidden = true;
    $('judging').hidden = false;
    $('judge-who').replaceChildren(el('span', {class: 'soft'}, 'as '), el('bdi', {}, name));
    draw();
    await flush();
    await refill();
  }

  $('who').addEventListener('submit', async (event) => {
    event.preventDefault();
    const name = $('reviewer').value.normalize('NFC').split(/\s+/u).filter(Boolean).join(' ');
    $('who-wrong').textContent = '';
    try {
      const answer = await app.server.ask(`api/next?reviewer=${encodeURIComponent(name)}`);
      if (answer.ok) await begin(name);
      else $('who-wrong').textContent = answer.said.error;
    } catch {
      $('who-wrong').textContent = 'The server does not answer. Is `runner review` still running?';
    }
  });
  $('judge-who').addEventListener('click', ask);

  // -- choosing -------------------------------------------------------------------------------

  function choose(what) {
    const item = items[0];
    if (!item) return;
    const [left, right] = item.sides;
    pending.push({
      token: makeToken(), reviewer, left: left.id, right: right?.id ?? null, verdict: what.verdict, stars: what.stars ?? null,
    });
    keep();
    answered.add(idOf(item));
    items.shift();
    draw();
    app.announce(`${what.name ?? what.label}. ${progressText()}`);
    flush().then(refill);
  }

  async function skip() {
    const item = items[0];
    if (!item) return;
    items.shift();
    const [left, right] = item.sides;
    draw();
    await flush();
    try {
      await app.server.ask('api/skip', {reviewer, left: left.id, right: right?.id ?? null});
    } catch {
      // It comes again sooner, and that is all.
    }
    await refill();
  }

  async function undo() {
    await flush();
    if (pending.length) {
      // It never got there, or nobody said that it did: what came of it is known when the server answers again.
      app.toast('The server does not answer: nothing can be undone now');
      return;
    }
    let answer;
    try {
      answer = await app.server.ask('api/undo', {reviewer});
    } catch {
      app.toast('The server does not answer: nothing was undone');
      return;
    }
    if (!answer.ok) {
      app.toast(answer.said.error);
      return;
    }
    const undone = answer.said.undone;
    if (!undone) {
      app.toast('There is nothing to undo');
      return;
    }
    answered.clear();
    items = undone.item ? [undone.item] : [];
    draw();
    app.announce('Undone');
    await refill();
    changed();
  }

  const changed = () => app.server.onChange?.();

  // -- the server -----------------------------------------------------------------------------

  // One at a time, in their order; whoever waits for it waits for all that is to be sent.
  function flush() {
    sending ??= send().finally(() => { sending = null; });
    return sending;
  }

  async function send() {
    let count = 0;
    while (pending.length) {
      let answer;
      try {
        answer = await app.server.ask('api/choices', pending[0]);
        if (answer.status >= 500) throw new Error(answer.said.error);
      } catch {
        gone('The server does not answer.');
        timer = setTimeout(() => flush().then(refill), waits[Math.min(tries++, waits.length - 1)]);
        return;
      }
      if (answer.status === 403 || answer.status === 421) {
        gone('The server was started anew: open the address that it has printed last.');
        return;
      }
      if (!answer.ok) app.toast(`A choice was not taken: ${answer.said.error}`);
      pending.shift();
      count += 1;
      keep();
    }
    if (tries) app.toast(`The server answers again, and has ${count === 1 ? 'the choice' : `all ${count} choices`}`);
    tries = 0;
    back();
    if (count) changed();
  }

  async function refill() {
    const mine = generation;
    let answer;
    try {
      answer = await app.server.ask(`api/next?reviewer=${encodeURIComponent(reviewer)}`);
    } catch {
      if (!items.length) {
        gone('The server does not answer.');
        clearTimeout(timer);
        timer = setTimeout(() => flush().then(refill), waits[Math.min(tries++, waits.length - 1)]);
      }
      return;
    }
    if (mine !== generation) return;
    if (!answer.ok) {
      gone(answer.said.error);
      return;
    }
    if (!pending.length) {
      back();
      tries = 0;
    }
    state = answer.said;
    const found = state.items.filter((item) => !answered.has(idOf(item)));
    // What is looked at stays: pictures that change under one's eyes are chosen by mistake.
    const stays = items[0];
    items = stays ? [stays, ...found.filter((item) => idOf(item) !== idOf(stays))] : found;
    draw();
  }

  function gone(text) {
    const kept = pending.length === 1 ? ' 1 choice is kept and sent again.' : pending.length ? ` ${pending.length} choices are kept and sent again.` : '';
    $('judge-gone').textContent = text + kept;
    $('judge-gone').hidden = false;
  }

  function back() {
    $('judge-gone').hidden = true;
    $('judge-gone').textContent = '';
  }

  // -- what is seen ---------------------------------------------------------------------------

  function progressText() {
    const done = Math.min(state.total, state.done + pending.length);
    return `${done.toLocaleString('en')} of ${state.total.toLocaleString('en')} judged`;
  }

  function draw() {
    const item = items[0] ?? null;
    $('judge-progress').textContent = progressText() + (state.skipped ? `, ${state.skipped} skipped` : '');
    $('judge-bar').max = Math.max(1, state.total);
    $('judge-bar').value = state.done + pending.length;
    for (const each of [...verdicts, others[0]]) buttons.get(each).disabled = !item;
    drawItem(item);
    preload();
  }

  function drawItem(item) {
    const id = item && idOf(item);
    if (id === shown && id !== null) return;
    shown = id;
    panes?.destroy();
    panes = null;
    $('judge-prompt').hidden = $('judge-pair').hidden = !item;
    $('judge-over').hidden = Boolean(item);
    if (!item) {
      drawOver();
      return;
    }
    const texts = item.prompts.map((text) => el('p', {dir: 'auto'}, text));
    const head = item.shared ? `${item.prompt_id}, ${item.shared}` : item.prompt_id;
    $('judge-prompt').replaceChildren(el('p', {class: 'soft'}, el('bdi', {}, head)), ...texts);
    $('judge-prompt').scrollTop = 0;
    const names = review.stars ? ['The image'] : ['Left', 'Right'];
    panes = app.panes($('judge-pair'), item.sides.map((side) => ({id: side.id, image: pictureOf(side)})), {
      labels: item.sides.map((side) => side.label || null),
      alts: item.sides.map((side, index) => {
        const what = side.label ? `, ${side.label}` : '';
        return `${names[index]}${what}: ${app.clip(item.prompts[index] ?? item.prompts[0] ?? item.prompt_id, 160)}`;
      }),
    });
  }

  function drawOver() {
    const over = $('judge-over');
    if (!state.items) {
      over.replaceChildren(el('p', {class: 'soft'}, '…'));
      return;
    }
    const again = el('button', {type: 'button', onclick: refill}, 'Look again');
    if (state.total === 0) {
      over.replaceChildren(el('h2', {}, 'Nothing to judge yet'), el('p', {class: 'soft'}, review.stars
        ? 'No image is done.'
        : `No two images of one prompt differ in ${review.axis ? `${review.axis} alone` : 'one axis alone'}${review.all_pairs ? ' or more' : ''}. `
          + 'A run that goes on may bring some; --all-pairs asks about those that differ in more.'), again);
    } else if (state.done + pending.length >= state.total) {
      over.replaceChildren(
        el('h2', {}, 'All is judged'), el('p', {class: 'soft'}, progressText()),
        el('div', {class: 'row'}, el('button', {type: 'button', class: 'primary', onclick: () => app.show('results')}, 'See the results'), again),
      );
    } else {
      over.replaceChildren(el('p', {class: 'soft'}, '…'));
    }
  }

  function preload() {
    ahead = items.slice(1).flatMap((item) => item.sides.map((side) => {
      const url = new URL(pictureOf(side), location.href).href;
      const known = ahead.find((image) => image.src === url);
      if (known) return known;
      const image = new Image();
      image.src = url;
      return image;
    }));
  }

  function key(event) {
    if ($('judging').hidden || event.target.closest('input, textarea, select, [contenteditable]')) return;
    if (panes?.key(event)) return;
    if (event.shiftKey && event.key.startsWith('Arrow')) return;
    // A prompt that is longer than its place is scrolled by the arrows, and held keys choose only once.
    const known = [...verdicts, ...others].find((each) => each.keys.includes(event.key));
    if (!known) return;
    if (event.target.id === 'judge-prompt' && ['ArrowUp', 'ArrowDown'].includes(event.key)) return;
    event.preventDefault();
    if (!event.repeat) known.run();
  }

  app.server.reviewer = () => reviewer;
  app.addView({
    id: 'review', title: 'Review', node: $('review'), key,
    show: () => !$('who').hidden && $('reviewer').focus(),
  });
  app.onReady(() => {
    if (!app.state.get('tab')) app.state.set('tab', 'review');
    const name = review.reviewer ?? app.recall('reviewer');
    if (name) begin(name);
    else ask();
  });
})();
