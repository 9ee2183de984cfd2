/*
 * What choices have come to: as it was when the page was made, or, while a review goes on, as it is now.
 */

(() => {
  const {el} = app;
  const {review} = app.data;
  const token = new URLSearchParams(location.search).get('token') ?? '';

  // The review's server: every address of it has the token.
  app.server = review ? {
    address: (path) => `${path}${path.includes('?') ? '&' : '?'}token=${encodeURIComponent(token)}`,
    async ask(path, body) {
      const answer = await fetch(app.server.address(path), {
        method: body ? 'POST' : 'GET',
        headers: body ? {'Content-Type': 'application/json'} : {},
        body: body && JSON.stringify(body),
        signal: AbortSignal.timeout(20000),
        cache: 'no-store',
        keepalive: Boolean(body), // a page that is closed just then takes no choice with it
      });
      return {ok: answer.ok, status: answer.status, said: await answer.json()};
    },
    reviewer: () => null,
    onChange: null,
  } : null;
  if (!review && !app.data.results) return;

  const percent = (share) => `${Math.round(share * 100)} %`;
  const range = (low, high) => `${Math.round(low * 100)}-${Math.round(high * 100)} %`;
  const number = (count) => count.toLocaleString('en');
  const node = el('section', {id: 'results', class: 'results', tabindex: '0', 'aria-label': 'Results'});

  // A share with its interval, and a mark at one half; the figures stand beside it.
  function bar(at, low, high) {
    const place = el('span', {class: 'interval', 'aria-hidden': 'true'}, el('i', {class: 'span'}), el('i', {class: 'dot'}));
    place.style.setProperty('--at', at ?? 0.5);
    place.style.setProperty('--low', low ?? at ?? 0.5);
    place.style.setProperty('--high', high ?? at ?? 0.5);
    return place;
  }

  function table(caption, note, heads, rows) {
    return el('div', {class: 'block'},
      el('table', {},
        el('caption', {}, el('strong', {}, caption), note && el('span', {class: 'soft'}, note)),
        el('thead', {}, el('tr', {}, heads.map((head) => (head.text === ''
          ? el('td', {class: head.class})
          : el('th', {scope: 'col', class: head.class}, head.text ?? head))))),
        el('tbody', {}, rows)));
  }

  const cell = (text, kind) => el('td', {class: kind}, text);
  const figure = (text) => cell(text, 'figure');
  const counts = (entry) => [entry.wins, entry.losses, entry.ties].map((count) => figure(number(count)));
  const wide = [{text: '', class: 'wide'}];
  const figures = (...heads) => heads.map((text) => ({text, class: 'figure'}));

  function axes(results) {
    const rows = results.axes.map((each) => el('tr', {class: each.is_shown ? 'sure' : null},
      el('th', {scope: 'row'}, el('bdi', {}, each.axis)),
      cell([el('strong', {}, el('bdi', {}, each.a)), ' over ', el('bdi', {}, each.b)].flatMap((part) => part), 'pair'),
      el('td', {class: 'wide'}, bar(each.win_rate, each.low, each.high)),
      figure(each.win_rate === null ? '-' : percent(each.win_rate)),
      figure(range(each.low, each.high)),
      ...counts(each),
      figure(each.difference_usd === null ? '-' : `${each.difference_usd < 0 ? '' : '+'}${app.money(each.difference_usd * 1e6)}`),
      cell(each.is_shown ? 'shown' : 'no difference shown', each.is_shown ? 'good' : 'soft')));
    return table('What beats what', 'One line for two values of an axis. Ties are not in the win rate.',
      ['axis', 'values', ...wide, ...figures('win rate', '95 %', 'wins', 'losses', 'ties', 'price an image'), 'difference'], rows);
  }

  function ranking(results) {
    const withStars = results.ranking.some((each) => each.stars !== null);
    const rows = results.ranking.map((each) => el('tr', {},
      figure(String(each.rank)),
      el('th', {scope: 'row'}, el('bdi', {}, each.label)),
      el('td', {class: 'wide'}, bar(each.chance, each.low, each.high)),
      figure(percent(each.chance)),
      figure(each.low === null ? '-' : range(each.low, each.high)),
      ...counts(each),
      withStars && figure(each.stars === null ? '-' : each.stars.toFixed(2))));
    return table('Variants', 'The chance of each to win against the average one (Bradley and Terry).',
      [...figures('rank'), 'variant', ...wide, ...figures('chance', '95 %', 'wins', 'losses', 'ties', ...(withStars ? ['stars'] : []))], rows);
  }

  function stars(results) {
    const row = (name, each) => el('tr', {},
      el('th', {scope: 'row'}, el('bdi', {}, name)),
      el('td', {class: 'wide'}, bar((each.mean - 1) / 4)),
      figure(each.mean.toFixed(2)), figure(number(each.count)));
    return table('Stars', 'The mean of what was given, from 1 to 5.',
      ['what', ...wide, ...figures('mean', 'count')], [
        ...results.stars.map((each) => row(`${each.axis}=${each.value}`, each)),
        ...results.variant_stars.map((each) => row(each.label, each)),
      ]);
  }

  function people(results) {
    const names = results.people.flatMap((each, index) => [
      index ? ', ' : '', el('bdi', {}, each.name), ` (${number(each.verdicts + each.stars)})`]);
    const {judged_by_two: met, share} = results.agreement;
    return el('p', {class: 'sum'}, el('strong', {}, number(results.choices)), results.choices === 1 ? ' choice by ' : ' choices by ', ...names,
      results.blind ? `; ${number(results.blind)} of them blind` : '',
      met ? `. Two people judged the same pair ${number(met)} times, and said the same in ${percent(share)} of them` : '',
      results.left_out ? `. ${number(results.left_out)} are left out: their images have changed, or are no longer wanted` : '', '.');
  }

  function render(results) {
    if (results.locked) {
      const left = results.left === null ? '' : ` ${number(results.left)} are left.`;
      node.replaceChildren(el('div', {class: 'none'}, el('h2', {}, 'Not yet'), el('p', {class: 'soft'},
        `In a blind review, results are shown when all is judged.${left} \`runner results\` tells them at any time.`)));
      return;
    }
    if (!results.choices) {
      node.replaceChildren(el('div', {class: 'none'}, el('h2', {}, 'Nothing has been chosen yet'), el('p', {class: 'soft'},
        results.left_out ? `${number(results.left_out)} choices are left out: their images have changed, or are no longer wanted.` : 'Each choice counts at once.')));
      return;
    }
    node.replaceChildren(
      people(results),
      ...(results.axes.length ? [axes(results)] : []),
      ...(results.ranking.length ? [ranking(results)] : []),
      ...(results.stars.length || results.variant_stars.length ? [stars(results)] : []),
    );
  }

  async function look() {
    const name = app.server.reviewer();
    try {
      const answer = await app.server.ask(`api/results${name ? `?reviewer=${encodeURIComponent(name)}` : ''}`);
      if (answer.ok) render(answer.said);
      else app.toast(answer.said.error);
    } catch {
      app.toast('The server does not answer: these results are older');
    }
  }

  if (app.server) app.server.onChange = () => app.current() === 'results' && look();
  // After the views of a review, which is what one has come for.
  app.onReady(() => {
    app.addView({id: 'results', title: 'Results', node, show: review ? look : () => render(app.data.results)});
  });
})();
