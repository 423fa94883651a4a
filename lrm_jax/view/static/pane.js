// A result: its turning mesh, and live views of its volume that follow the mouse.
import {element, request} from '/static/api.js';

const FAST = 128, FULL = 256;  // pixels along a side of a view, while it is dragged and at rest
const IN_FLIGHT = 2;  // requests
const REST = 160;  // milliseconds until a view at rest is rendered in full
const COLUMNS = {vertices: 'vertices', faces: 'triangles'};

export class Pane {
  // `state` is shared by all panes: {tab, kind, azimuth, elevation, distance}; `moved` is called when its camera changes.
  constructor(state, moved, rate) {
    Object.assign(this, {state, moved, rate, job: null, waiting: 0, asked: 0, shown: 0, dirty: false, times: []});
    this.viewer = element('model-viewer', {
      'camera-controls': '', 'auto-rotate': '', 'auto-rotate-delay': '300', 'rotation-per-second': '32deg',
      'camera-orbit': '0deg 78deg 2.2m', 'camera-target': '0m 0m 0m', 'field-of-view': '42deg', 'max-field-of-view': '42deg', 'min-camera-orbit': 'auto auto 1m',
      'max-camera-orbit': 'auto auto 6m', 'interaction-prompt': 'none', 'shadow-intensity': '0', loading: 'eager', 'touch-action': 'pan-y',
      'tone-mapping': 'linear', alt: 'The mesh: drag it to turn it',
    });
    this.canvas = element('canvas', {width: FULL, height: FULL, 'aria-label': 'A view of the volume: drag it to turn it'});
    this.empty = element('div', {class: 'empty'});
    this.caption = element('p', {class: 'caption'});
    this.node = element('div', {class: 'pane'},
      element('div', {class: 'stage'}, this.viewer, this.canvas, this.empty), this.caption);
    this.viewer.addEventListener('camera-change', event => {
      if (event.detail.source === 'user-interaction') this.moved(this, this.viewer.getCameraOrbit());
    });
    this.drag();
    this.refresh();
  }

  show(job) {
    const other = job?.id !== this.job?.id;
    this.job = job;
    if (other) {
      this.drawn = false;
      this.viewer.removeAttribute('src');
      this.canvas.getContext('2d').clearRect(0, 0, FULL, FULL);
    }
    const mesh = job?.files.glb?.url;
    if (mesh && this.viewer.getAttribute('src') !== mesh) this.viewer.setAttribute('src', mesh);
    this.refresh();
  }

  refresh() {
    const {job, state} = this, views = state.tab === 'views';
    const ready = views ? job?.viewable : job?.files.glb;
    this.viewer.hidden = views || !ready;
    this.canvas.hidden = !views || !ready;
    this.empty.hidden = Boolean(ready);
    const waits = job && !job.ended;
    this.empty.replaceChildren(element('span', {}, waits ? 'The object appears here in a moment.'
      : job?.error ? 'There is no result.' : 'Drop an image, or choose an example.'));
    this.caption.replaceChildren();
    if (job) {
      const report = job.report, words = Object.entries(COLUMNS).filter(([name]) => name in report)
        .map(([name, word]) => `${report[name].toLocaleString('en')} ${word}`);
      if ('watertight' in report) words.push(report.watertight ? 'watertight' : `${report.holes} holes`);
      this.caption.append(element('b', {}, job.name), element('span', {}, [job.model, ...words].join(' · ')));
    }
    if (views && ready && !this.drawn) this.render(FULL);
  }

  drag() {
    const {canvas, state} = this;
    let last = null;
    canvas.addEventListener('pointerdown', event => { canvas.setPointerCapture(event.pointerId); last = event; this.times = []; });
    canvas.addEventListener('pointermove', event => {
      if (!last) return;
      state.azimuth -= (event.clientX - last.clientX) * 0.5;
      state.elevation = Math.max(-85, Math.min(85, state.elevation + (event.clientY - last.clientY) * 0.4));
      last = event;
      this.moved(this);
    });
    for (const name of ['pointerup', 'pointercancel']) canvas.addEventListener(name, () => { last = null; });
    canvas.addEventListener('wheel', event => {
      event.preventDefault();
      state.distance = Math.max(0.6, Math.min(2.5, state.distance * Math.exp(event.deltaY * 0.001)));
      this.moved(this);
    }, {passive: false});
  }

  // Renders a view. While one is decoded here, the server renders the next; more are not on their way, and of the
  // positions that were asked for meanwhile, only the last one is rendered.
  async render(size = FAST) {
    clearTimeout(this.timer);
    if (this.waiting >= IN_FLIGHT || (size === FULL && this.waiting)) { this.dirty = true; return; }
    if (!this.job?.viewable) return;
    this.waiting += 1;
    this.dirty = false;
    const number = ++this.asked;
    const {job, state: {azimuth, elevation, distance, kind}} = this;
    const camera = new URLSearchParams({azimuth: azimuth.toFixed(1), elevation: elevation.toFixed(1), distance: distance.toFixed(3), kind, size});
    try {
      const bitmap = await createImageBitmap(await (await request(`/v1/jobs/${job.id}/view?${camera}`)).blob());
      if (this.job?.id === job.id && number > this.shown) {
        const context = this.canvas.getContext('2d');
        context.imageSmoothingQuality = 'high';
        context.drawImage(bitmap, 0, 0, FULL, FULL);
        this.drawn = true;
        this.shown = number;
        this.canvas.dataset.view = camera;
        this.count(size);
      }
    } catch (problem) {
      this.rate(problem.message);
    }
    this.waiting -= 1;
    if (this.dirty) this.render(FAST);
    else if (size !== FULL) this.timer = setTimeout(() => this.render(FULL), REST);
  }

  count(size) {
    const now = performance.now();
    if (size !== FAST) { this.rate(`${size} px`); return; }
    this.times = [...this.times.filter(time => now - time < 2000), now];
    const [first] = this.times, seconds = (now - first) / 1000;
    if (this.times.length > 3) this.rate(`${size} px · ${((this.times.length - 1) / seconds).toFixed(0)} frames a second`);
  }
}
