// Earlier results: each can be opened, compared with the one that is open, and deleted.
import {element, json, request} from '/static/api.js';

const time = text => new Date(text).toLocaleString([], {month: 'short', day: 'numeric', hour: '2-digit', minute: '2-digit', hourCycle: 'h23'});

export class Gallery {
  constructor(section, node, open, compare, removed) { Object.assign(this, {section, node, open, compare, removed, shown: []}); }

  async load(current) {
    const {jobs} = await json('/v1/jobs?limit=60');
    this.jobs = jobs.filter(job => job.status === 'done');
    this.mark(current);
  }

  mark(current = this.current) {
    this.current = current;
    this.section.hidden = !this.jobs?.length;
    this.node.replaceChildren(...(this.jobs ?? []).map(job => this.item(job)));
  }

  item(job) {
    const picture = kind => element('img', {src: job.files[kind] ? `${job.files[kind].url}?inline=1` : 'data:,', alt: kind, loading: 'lazy'});
    const button = (text, call) => element('button', {type: 'button', class: 'link', onclick: call}, text);
    return element('div', {class: `item${job.id === this.current ? ' open' : ''}`, 'data-job': job.id},
      element('button', {type: 'button', class: 'images', title: 'Open', onclick: () => this.open(job)}, picture('input'), picture('view')),
      element('p', {}, job.name), element('p', {class: 'note', title: job.model}, job.model), element('p', {class: 'note'}, time(job.created)),
      element('div', {}, button('Compare', () => this.compare(job)),
        button('Delete', async () => {
          await request(`/v1/jobs/${job.id}`, {method: 'DELETE'});
          this.jobs = this.jobs.filter(other => other.id !== job.id);
          this.mark();
          this.removed(job);
        })));
  }
}
