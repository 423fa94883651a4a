// The page: an image becomes a job of the HTTP API, and its result is shown.
import {element, form, json, request, sentence} from '/static/api.js';
import {Gallery} from '/static/gallery.js';
import {MaskEditor} from '/static/mask.js';
import {Pane} from '/static/pane.js';

const $ = id => document.getElementById(id);
const NAMES = {glb: 'GLB', obj: 'OBJ (zip)', ply: 'PLY', stl: 'STL', video: 'MP4', depth: 'MP4, depth', planes: 'Planes (npz)'};
const POLL = 200;  // milliseconds

let about = null, upload = null, job = null;
const state = {tab: 'mesh', kind: 'color', azimuth: 0, elevation: 15, distance: 1};
const panes = [];

const complain = problem => {
  $('problem').textContent = problem?.message ?? '';
  $('problem').hidden = !problem;
};
const guarded = call => async (...inputs) => {
  try { return await call(...inputs); } catch (problem) { complain(problem); return null; }
};

// The image

const editor = new MaskEditor($('mask'), () => edited(), guarded(async box => {
  const options = {method: 'POST', headers: {'Content-Type': 'application/json'}, body: JSON.stringify({box})};
  complain(null);
  upload = await json(`/v1/images/${upload.id}/mask`, options);
  await editor.replace(`${upload.mask}?${Date.now()}`);
  edited();
}));

const receive = guarded(async (file, name = file.name ?? 'pasted.png') => {
  complain(null);
  if (about && file.size > about.limits.upload_bytes) {
    throw new Error(`${name} has ${(file.size / 2 ** 20).toFixed(1)} MiB, more than the limit of ${about.limits.upload_bytes / 2 ** 20} MiB: make it smaller.`);
  }
  $('drop').classList.add('busy');
  try {
    const next = await json('/v1/images', form({image: new File([file], name, {type: file.type})}));
    upload = next;
  } finally {
    $('drop').classList.remove('busy');
  }
  $('editor').hidden = false;
  for (const id of ['drop', 'examples']) $(id).hidden = true;
  $('whole').checked = editor.hidden = false;
  $('notes').replaceChildren(...upload.notes.map(note => element('li', {}, note)));
  await editor.load(upload.image, upload.mask);
  edited();
  if (upload.found) await start();
});

function edited() {
  editor.hidden = $('whole').checked;
  editor.draw();
  $('undo').disabled = $('reset').disabled = !editor.steps.length;
  $('ratio').disabled = $('whole').checked;
  clearTimeout(edited.timer);
  edited.timer = setTimeout(guarded(preview), 250);
}

const mask = async () => $('whole').checked ? 'none' : editor.edited ? await editor.file() : '';
const ratio = () => $('ratio').dataset.changed ? $('ratio').value : '';

async function preview() {
  if (!upload) return;
  const asked = upload.id;
  const seen = await json(`/v1/images/${upload.id}/preview`, form({mask: await mask(), model: $('model').value, foreground_ratio: ratio()}));
  if (upload?.id !== asked) return;
  $('preview').src = seen.image;
  $('notes').replaceChildren(...[...upload.notes, ...seen.notes].map(note => element('li', {}, note)));
  complain(null);
}

// The job

const start = guarded(async () => {
  complain(null);
  const fields = {image_id: upload.id, mask: await mask(), model: $('model').value, foreground_ratio: ratio(), video: $('video').checked};
  for (const id of ['faces', 'texture', 'resolution', 'keep']) fields[id] = $(id).value;
  watch(await json('/v1/jobs', form(fields)));
});

async function watch(first) {
  const id = first.id;
  show(first);
  for (let now = first; !now.ended;) {
    await new Promise(resolve => setTimeout(resolve, POLL));
    try { now = await json(`/v1/jobs/${id}`); } catch (problem) { complain(problem); return; }
    if (job?.id !== id) return;  // Another one is shown now; this one goes on.
    show(now);
  }
  if (job.error) complain(new Error(sentence(job.error)));
  await gallery.load(job.id);
}

function show(now) {
  job = now;
  const active = !job.ended;
  $('start').disabled = active;
  $('cancel').hidden = !active;
  $('progress').hidden = false;
  const total = Object.values(job.seconds).reduce((sum, seconds) => sum + seconds, 0);
  $('state').textContent = {
    queued: job.ahead ? `Waiting: ${job.ahead} ${job.ahead === 1 ? 'job is' : 'jobs are'} before this one.` : 'Waiting for the server.',
    running: 'Reconstructing ...', done: `Finished in ${total.toFixed(1)} s.`, failed: 'Failed.', cancelled: 'Cancelled.',
  }[job.status];
  $('phases').replaceChildren(...about.phases.filter(phase => phase !== 'turntable' || job.options.video).map(phase => {
    const done = phase in job.seconds && phase !== job.phase, current = phase === job.phase;
    return element('li', {class: done ? 'done' : current ? 'now' : '', style: `--share: ${done ? 1 : current ? job.progress : 0}`},
      phase, element('i'), element('span', {}, done ? `${job.seconds[phase].toFixed(2)} s` : current && job.progress ? `${Math.round(100 * job.progress)} %` : ''));
  }));
  const fresh = job.files.glb && panes[0].job?.id === job.id && !panes[0].job.files.glb;
  panes[0].show(job);
  downloads();
  if (fresh && matchMedia('(max-width: 860px)').matches) $('output').scrollIntoView({behavior: 'smooth'});
}

function downloads() {
  const links = Object.entries(NAMES).filter(([kind]) => job?.files[kind]).map(([kind, name]) =>
    element('a', {href: job.files[kind].url, download: job.files[kind].name, 'data-kind': kind}, name));
  // Links that are there already stay, so that a click is not lost when another one comes.
  const known = [...$('downloads').children].map(link => link.getAttribute('href')).join();
  if (known !== links.map(link => link.getAttribute('href')).join()) $('downloads').replaceChildren(...links);
}

// The result

function moved(pane, orbit) {
  for (const other of panes) {
    if (state.tab === 'views') other.render();
    else if (other !== pane) { other.viewer.autoRotate = pane.viewer.autoRotate = false; other.viewer.cameraOrbit = orbit.toString(); other.viewer.jumpCameraToGoal(); }
  }
}

const newPane = () => new Pane(state, moved, text => { $('rate').textContent = state.tab === 'views' ? text : ''; });

function compare(other) {
  if (panes.length > 1) panes.pop().node.remove();
  if (other && !job) {
    job = other;
    panes[0].show(job);
    downloads();
    gallery.mark(job.id);
  } else if (other && other.id !== job.id) {
    const pane = newPane();
    pane.node.prepend(element('button', {type: 'button', class: 'close', title: 'Close', onclick: () => compare(null)}, '×'));
    panes.push(pane);
    $('panes').append(pane.node);
    pane.show(other);
  }
  $('panes').classList.toggle('two', panes.length > 1);
}

const gallery = new Gallery($('earlier'), $('gallery'), opened => {
  if (job && !job.ended) { complain(new Error('A reconstruction is running: wait for it, or cancel it, before you open another one.')); return; }
  complain(null);
  job = opened;
  panes[0].show(job);
  compare(null);
  downloads();
  $('progress').hidden = true;
  gallery.mark(job.id);
  $('output').scrollIntoView({behavior: 'smooth', block: 'nearest'});
}, compare, removed => {
  if (panes[1]?.job.id === removed.id) compare(null);
  if (job?.id === removed.id) { job = null; panes[0].show(null); downloads(); }
});

// Controls

const choose = (group, name, call) => $(group).addEventListener('click', event => {
  const chosen = event.target.dataset[name];
  if (!chosen) return;
  for (const button of $(group).children) {
    button.setAttribute(button.role === 'tab' ? 'aria-selected' : 'aria-pressed', button === event.target);
  }
  call(chosen);
});
choose('tools', 'tool', tool => { editor.tool = tool; });
choose('tabs', 'tab', tab => {
  state.tab = tab;
  $('kinds').hidden = tab !== 'views';
  $('rate').textContent = '';
  for (const pane of panes) { pane.drawn = false; pane.refresh(); }
});
choose('kinds', 'kind', kind => {
  state.kind = kind;
  for (const pane of panes) pane.render();
});
$('brush').addEventListener('input', event => { editor.brush = Number(event.target.value); });
$('undo').addEventListener('click', () => editor.undo());
$('reset').addEventListener('click', () => editor.undo(true));
$('whole').addEventListener('change', edited);
$('ratio').addEventListener('input', event => {
  event.target.dataset.changed = '1';
  $('ratio_value').textContent = Number(event.target.value).toFixed(2);
  edited();
});
$('model').addEventListener('change', () => { defaults(); edited(); });
$('start').addEventListener('click', start);
$('cancel').addEventListener('click', guarded(() => request(`/v1/jobs/${job.id}/cancel`, {method: 'POST'})));
$('another').addEventListener('click', () => {
  upload = null;
  $('editor').hidden = true;
  for (const id of ['drop', 'examples']) $(id).hidden = false;
  complain(null);
});
$('drop').addEventListener('click', () => $('file').click());
$('drop').addEventListener('keydown', event => { if (['Enter', ' '].includes(event.key)) { event.preventDefault(); $('file').click(); } });
$('file').addEventListener('change', event => { const [file] = event.target.files; event.target.value = ''; if (file) receive(file); });
document.addEventListener('paste', event => {
  const [file] = event.clipboardData.files;
  if (file) { event.preventDefault(); receive(file); }
});
document.addEventListener('keydown', event => {
  if ((event.ctrlKey || event.metaKey) && event.key === 'z' && upload) { event.preventDefault(); editor.undo(); }
});
let depth = 0;
const dragging = change => event => {
  event.preventDefault();
  depth = Math.max(0, depth + change);
  document.body.classList.toggle('dragging', depth > 0);
};
document.addEventListener('dragenter', dragging(1));
document.addEventListener('dragleave', dragging(-1));
document.addEventListener('dragover', event => event.preventDefault());
document.addEventListener('drop', event => {
  dragging(-depth)(event);
  const [file] = event.dataTransfer.files;
  if (file) receive(file);
});

// Start

function defaults() {
  const model = about.models.find(one => one.name === $('model').value);
  if (!$('ratio').dataset.changed && model?.foreground_ratio) {
    $('ratio').value = model.foreground_ratio;
    $('ratio_value').textContent = model.foreground_ratio.toFixed(2);
  }
}

async function poll() {
  let wait = 1000;
  try {
    const fresh = await json('/v1');
    if (!about) {
      about = fresh;
      $('model').replaceChildren(...about.models.map(model => element('option', {value: model.name}, model.label)));
      $('limits').textContent = `PNG, JPEG, WebP, ... up to ${about.limits.upload_bytes / 2 ** 20} MiB`;
      $('examples').replaceChildren(...about.examples.map(source => {
        const name = source.split('/').pop();
        const load = guarded(async () => receive(await (await request(source)).blob(), name));
        return element('button', {type: 'button', title: name.replace('.png', ''), onclick: load}, element('img', {src: source, alt: name.replace('.png', '')}));
      }));
      await gallery.load(null);
    }
    about = fresh;
    defaults();
    $('ready').textContent = about.ready ? 'ready' : 'warming up';
    $('ready').className = about.ready ? 'pill ready' : 'pill';
    wait = about.ready ? 10000 : 700;
  } catch {
    $('ready').textContent = 'no server';
    $('ready').className = 'pill lost';
  }
  setTimeout(poll, wait);
}

panes.push(newPane());
$('panes').append(panes[0].node);
poll();
