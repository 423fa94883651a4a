// Shows GLB files written by lrm_jax/reconstruction/glb.py (a single mesh, vertex colours, unlit) in a canvas.
// Needs no library and no network.
// <canvas data-glb="base64">: drag to rotate, scroll to zoom, double-click to switch the lighting on or off.
// The first view is from the input camera: distance 2 along +z, field of view 50 degrees, y up.
'use strict';

const VERTEX = `#version 300 es
in vec3 position; in vec3 normal; in vec4 color;
uniform mat3 turn; uniform vec2 lens;  // lens: focal length, distance
out vec3 linear; out vec3 facing;
void main() {
  vec3 p = turn * position;
  facing = turn * normal;
  linear = color.rgb;
  float depth = lens.y - p.z;
  gl_Position = vec4(lens.x * p.xy, 1.02 * depth - 0.2, depth);
}`;

const FRAGMENT = `#version 300 es
precision highp float;
in vec3 linear; in vec3 facing;
uniform bool lit;
out vec4 pixel;
void main() {
  float light = lit ? 0.35 + 0.65 * max(dot(normalize(facing), normalize(vec3(0.4, 0.7, 0.9))), 0.0) : 1.0;
  vec3 c = linear * light;
  pixel = vec4(mix(1.055 * pow(c, vec3(1.0 / 2.4)) - 0.055, 12.92 * c, lessThan(c, vec3(0.0031308))), 1.0);
}`;

function readGlb(bytes) {
  const view = new DataView(bytes.buffer);
  const textLength = view.getUint32(12, true);
  const glb = JSON.parse(new TextDecoder().decode(bytes.subarray(20, 20 + textLength)));
  const start = 28 + textLength;
  const array = index => {
    const accessor = glb.accessors[index], part = glb.bufferViews[accessor.bufferView];
    const from = start + (part.byteOffset || 0);
    return {data: bytes.subarray(from, from + part.byteLength), count: accessor.count, type: accessor.componentType};
  };
  const primitive = glb.meshes[0].primitives[0];
  return {position: array(primitive.attributes.POSITION), normal: array(primitive.attributes.NORMAL),
          color: array(primitive.attributes.COLOR_0), indices: array(primitive.indices)};
}

function program(gl) {
  const result = gl.createProgram();
  for (const [kind, text] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, text);
    gl.compileShader(shader);
    gl.attachShader(result, shader);
  }
  gl.linkProgram(result);
  gl.useProgram(result);
  return result;
}

function show(canvas) {
  const gl = canvas.getContext('webgl2', {antialias: true});
  if (!gl) {
    canvas.replaceWith('This browser does not support WebGL 2: open the .glb file in the folder objects/ with another viewer.');
    return;
  }
  const mesh = readGlb(Uint8Array.from(atob(canvas.dataset.glb), c => c.charCodeAt(0)));
  const shaders = program(gl);
  for (const [name, width] of [['position', 3], ['normal', 3], ['color', 4]]) {
    const place = gl.getAttribLocation(shaders, name);
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ARRAY_BUFFER, mesh[name].data, gl.STATIC_DRAW);
    gl.enableVertexAttribArray(place);
    gl.vertexAttribPointer(place, width, mesh[name].type, name === 'color', 0, 0);
  }
  gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
  gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, mesh.indices.data, gl.STATIC_DRAW);
  gl.enable(gl.DEPTH_TEST);
  gl.enable(gl.CULL_FACE);  // Inverted triangles would show the inside of the mesh.
  gl.clearColor(1, 1, 1, 1);

  let yaw = 0, pitch = 0, distance = 2, lit = false, idle = true, last = null;
  const draw = time => {
    if (idle && last !== null) yaw -= (time - last) * 0.0006;
    last = time;
    const [c, s, d, t] = [Math.cos(yaw), Math.sin(yaw), Math.cos(pitch), Math.sin(pitch)];
    gl.uniformMatrix3fv(gl.getUniformLocation(shaders, 'turn'), false, [c, t * s, -d * s, 0, d, t, s, -t * c, d * c]);
    gl.uniform2f(gl.getUniformLocation(shaders, 'lens'), 1 / Math.tan(Math.PI * 25 / 180), distance);
    gl.uniform1i(gl.getUniformLocation(shaders, 'lit'), lit);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.drawElements(gl.TRIANGLES, mesh.indices.count, mesh.indices.type, 0);
    requestAnimationFrame(draw);
  };
  canvas.addEventListener('pointerdown', event => { idle = false; canvas.setPointerCapture(event.pointerId); });
  canvas.addEventListener('pointermove', event => {
    if (!event.buttons) return;
    yaw += event.movementX * 0.01;
    pitch = Math.max(-1.5, Math.min(1.5, pitch + event.movementY * 0.01));
  });
  canvas.addEventListener('wheel', event => {
    event.preventDefault();
    distance = Math.max(1, Math.min(5, distance * Math.exp(event.deltaY * 0.001)));
  }, {passive: false});
  canvas.addEventListener('dblclick', () => { lit = !lit; });
  requestAnimationFrame(draw);
}

document.querySelectorAll('canvas[data-glb]').forEach(show);
