// Requests to the HTTP API; docs/view.md describes it. Each failure is an Error with the server's sentence.

// Jobs of one browser wait in one line; the server takes the lines in turn.
const client = sessionStorage.client ??= Array.from(crypto.getRandomValues(new Uint8Array(8)), byte => byte.toString(16)).join('');

export async function request(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, {...options, headers: {'X-Client': client, ...options.headers}});
  } catch {
    throw new Error('The server does not answer. Is python -m lrm_jax.view still running?');
  }
  if (answer.ok) return answer;
  const text = await answer.text();
  let message = text.slice(0, 200) || answer.statusText;
  try { message = JSON.parse(text).error ?? message; } catch { /* not from our server */ }
  throw new Error(sentence(message));
}

// The names of files keep their case.
export const sentence = text => (/^[a-z]+[ ,]/.test(text) ? text.charAt(0).toUpperCase() + text.slice(1) : text) + '.';

export const json = async (path, options) => (await request(path, options)).json();

export function form(fields) {
  const body = new FormData();
  for (const [name, value] of Object.entries(fields)) {
    if (value instanceof Blob) body.append(name, value, value.name ?? `${name}.png`);
    else if (value !== null && value !== undefined && value !== '') body.append(name, value);
  }
  return {method: 'POST', body};
}

export const element = (tag, attributes = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
};

export const image = source => new Promise((resolve, reject) => {
  const node = new Image();
  node.onload = () => resolve(node);
  node.onerror = () => reject(new Error('An image could not be loaded.'));
  node.src = source;
});
