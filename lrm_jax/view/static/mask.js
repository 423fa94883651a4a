// The mask of the object over its image: painted with a brush, or found by the server inside of a box.
import {image} from '/static/api.js';

const LARGEST = 1024;  // pixels along the longer side of the canvas
const UNDO = 12;  // steps

export class MaskEditor {
  // `changed` is called after each stroke, `boxed` with [left, top, right, bottom] in 0..1 of the image.
  constructor(canvas, changed, boxed) {
    Object.assign(this, {canvas, changed, boxed, tool: 'add', brush: 28, steps: [], edited: false, hidden: false});
    this.context = canvas.getContext('2d');
    this.mask = document.createElement('canvas');
    this.shade = document.createElement('canvas');
    canvas.addEventListener('pointerdown', event => this.down(event));
    canvas.addEventListener('pointermove', event => this.move(event));
    for (const name of ['pointerup', 'pointercancel']) canvas.addEventListener(name, event => this.up(event));
    canvas.addEventListener('pointerleave', () => { this.place = null; this.draw(); });
  }

  async load(picture, mask) {
    const [pixels, grey] = await Promise.all([image(picture), image(mask)]);
    this.picture = pixels;
    const scale = Math.min(1, LARGEST / Math.max(pixels.width, pixels.height));
    // A small image is enlarged, so that a brush is finer than its pixels.
    const enlarged = scale < 1 ? scale : Math.max(1, Math.min(8, Math.round(512 / Math.max(pixels.width, pixels.height))));
    for (const canvas of [this.canvas, this.mask, this.shade]) {
      canvas.width = Math.max(1, Math.round(pixels.width * enlarged));
      canvas.height = Math.max(1, Math.round(pixels.height * enlarged));
    }
    this.setMask(grey);
    this.steps = [];
    this.edited = this.replaced = false;
    this.draw();
  }

  setMask(grey) {
    const context = this.mask.getContext('2d', {willReadFrequently: true});
    context.globalCompositeOperation = 'copy';
    context.drawImage(grey, 0, 0, this.mask.width, this.mask.height);
    context.globalCompositeOperation = 'source-over';
    const pixels = context.getImageData(0, 0, this.mask.width, this.mask.height);
    for (let i = 0; i < pixels.data.length; i += 4) {
      pixels.data[i + 3] = pixels.data[i];
      pixels.data[i] = pixels.data[i + 1] = pixels.data[i + 2] = 255;
    }
    context.putImageData(pixels, 0, 0);
  }

  async replace(mask) {  // by that of a box
    this.remember();
    this.setMask(await image(mask));
    this.edited = this.replaced = true;  // From now on, the server's own mask is that of the box.
    this.draw();
  }

  file() { return new Promise(resolve => this.mask.toBlob(resolve, 'image/png')); }

  remember() {
    this.steps.push(this.mask.getContext('2d').getImageData(0, 0, this.mask.width, this.mask.height));
    if (this.steps.length > UNDO) this.steps.splice(1, 1);  // The first one is the mask that Reset restores.
  }

  undo(all = false) {
    if (!this.steps.length) return;
    const step = all ? this.steps[0] : this.steps.pop();
    if (all) this.steps = [];
    this.mask.getContext('2d').putImageData(step, 0, 0);
    this.edited = this.replaced || this.steps.length > 0;
    this.draw();
    this.changed();
  }

  at(event) {
    const box = this.canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width * this.canvas.width, (event.clientY - box.top) / box.height * this.canvas.height];
  }

  get radius() { return this.brush / 2 * this.canvas.width / this.canvas.getBoundingClientRect().width; }

  down(event) {
    if (!this.picture || this.hidden || event.button) return;
    event.preventDefault();
    this.canvas.setPointerCapture(event.pointerId);
    this.start = this.last = this.place = this.at(event);
    if (this.tool !== 'box') {
      this.remember();
      this.stroke(this.start, this.start);
    }
    this.draw();
  }

  move(event) {
    this.place = this.at(event);
    if (this.start && this.tool !== 'box') {
      this.stroke(this.last, this.place);
      this.last = this.place;
    }
    this.draw();
  }

  up(event) {
    if (!this.start) return;
    const [start, end] = [this.start, this.at(event)];
    this.start = null;
    if (this.tool === 'box') {
      const share = ([x, y]) => [x / this.canvas.width, y / this.canvas.height].map(value => Math.min(1, Math.max(0, value)));
      const [[a, b], [c, d]] = [share(start), share(end)];
      if (Math.abs(a - c) > 0.02 && Math.abs(b - d) > 0.02) this.boxed([Math.min(a, c), Math.min(b, d), Math.max(a, c), Math.max(b, d)]);
    } else {
      this.edited = true;
      this.changed();
    }
    this.draw();
  }

  stroke(from, to) {
    const context = this.mask.getContext('2d');
    context.globalCompositeOperation = this.tool === 'erase' ? 'destination-out' : 'source-over';
    context.strokeStyle = '#fff';
    context.lineCap = context.lineJoin = 'round';
    context.lineWidth = 2 * this.radius;
    context.beginPath();
    context.moveTo(...from);
    context.lineTo(to[0] + 0.01, to[1]);
    context.stroke();
    context.globalCompositeOperation = 'source-over';
  }

  draw() {
    if (!this.picture) return;
    const {context, canvas: {width, height}} = this;
    context.clearRect(0, 0, width, height);
    context.drawImage(this.picture, 0, 0, width, height);
    if (this.hidden) return;
    const shade = this.shade.getContext('2d');
    shade.globalCompositeOperation = 'copy';
    shade.fillStyle = 'rgba(38, 58, 110, 0.58)';
    shade.fillRect(0, 0, width, height);
    shade.globalCompositeOperation = 'destination-out';
    shade.drawImage(this.mask, 0, 0);
    context.drawImage(this.shade, 0, 0);
    const thin = width / this.canvas.getBoundingClientRect().width;
    for (const [color, line] of [['rgba(0,0,0,.55)', 3], ['#fff', 1.5]]) {
      context.strokeStyle = color;
      context.lineWidth = line * thin;
      context.beginPath();
      if (this.tool === 'box' && this.start && this.place) {
        context.rect(...this.start, this.place[0] - this.start[0], this.place[1] - this.start[1]);
      } else if (this.tool !== 'box' && this.place) {
        context.arc(...this.place, this.radius, 0, 7);
      }
      context.stroke();
    }
  }
}
