"""GLSL shaders of the rasteriser: one program for colours, one for distances and normals.

Reflection of even light is looked up in the table of reflectance.py, so that flat patches have the colours of Cycles.
"""

VERTEX = """
#version 330
uniform mat4 to_clip;
in vec3 position; in vec3 normal; in vec2 base_uv; in vec2 surface_uv; in vec2 glow_uv; in vec4 color;
out vec3 place; out vec3 facing; out vec4 tint;
centroid out vec2 base_at; centroid out vec2 surface_at; centroid out vec2 glow_at;
void main() {
  place = position; facing = normal; tint = color;
  base_at = base_uv; surface_at = surface_uv; glow_at = glow_uv;
  gl_Position = to_clip * vec4(position, 1.0);
}
"""
_ALPHA = """
uniform sampler2D base_map; uniform vec4 factor; uniform float cutoff; uniform bool opaque; uniform vec3 eye;
in vec3 place; in vec3 facing; in vec4 tint;
// Not extrapolated beyond the edges of triangles, so that the neighbours in an atlas of textures do not show there.
centroid in vec2 base_at; centroid in vec2 surface_at; centroid in vec2 glow_at;
vec4 base() {
  vec4 color = factor * tint * texture(base_map, base_at);
  if (color.a < cutoff) discard;
  return vec4(color.rgb, opaque ? 1.0 : color.a);
}
"""
COLOR = (
  '#version 330\n'
  + _ALPHA
  + """
uniform sampler2D surface_map; uniform float metallic; uniform float roughness; uniform vec3 specular;
uniform bool glossy; uniform vec3 glossy_color;
uniform sampler2D glow_map; uniform vec3 emission; uniform bool unlit;
uniform sampler2D table;
uniform float ambient; uniform int num_suns; uniform vec4 suns[4];
out vec4 result;

// As in reflectance.py, with (dielectric, at_0, white, white_average) in `measured`.
vec3 metal(vec3 f, vec4 measured) {
  f = clamp(f, 0.0, 1.0);
  vec3 mean = f + (1.0 - f) / 21.0;
  vec3 more = mean * measured.a / (1.0 - mean * (1.0 - measured.a));
  return mix(vec3(measured.g), vec3(measured.b), f) * (1.0 + more * (1.0 - measured.b) / measured.b);
}

void main() {
  vec4 color = base();
  if (unlit) {
    result = vec4(color.rgb * color.a, color.a);
    return;
  }
  vec3 to_eye = normalize(eye - place);
  // Some files have normals of length 0.
  vec3 n = normalize(dot(facing, facing) > 1e-12 ? facing : cross(dFdx(place), dFdy(place)));
  n = dot(n, to_eye) < 0.0 ? -n : n;
  vec3 light = vec3(ambient);
  for (int i = 0; i < num_suns; i++) light += suns[i].w * max(dot(n, suns[i].xyz), 0.0);
  vec4 maps = texture(surface_map, surface_at);
  float rough = clamp(glossy ? 1.0 - roughness * maps.a : roughness * maps.g, 0.0, 1.0);
  vec4 measured = texture(table, (vec2(rough, clamp(dot(n, to_eye), 0.0, 1.0)) * 10.0 + 0.5) / 11.0);
  vec3 shown;
  if (glossy) {
    vec3 f = glossy_color * maps.rgb;
    vec3 mirrored = mix(measured.r * f / 0.04, metal(f, measured), smoothstep(0.04, 0.3, f));
    shown = color.rgb * (1.0 - max(f.r, max(f.g, f.b))) * light + mirrored * ambient;
  } else {
    vec3 mirrored = min(specular * measured.r, 1.0);
    vec3 matt = color.rgb * (1.0 - max(mirrored.r, max(mirrored.g, mirrored.b)));
    shown = mix(matt * light + mirrored * ambient, metal(color.rgb, measured) * ambient, metallic * maps.b);
  }
  shown += emission * texture(glow_map, glow_at).rgb;
  result = vec4(shown * color.a, color.a);
}
"""
)
GEOMETRY = (
  '#version 330\n'
  + _ALPHA
  + """
out vec4 result;
void main() {
  if (base().a < 0.5) discard;
  vec3 to_eye = eye - place;
  vec3 n = normalize(cross(dFdx(place), dFdy(place)));
  result = vec4(dot(n, to_eye) < 0.0 ? -n : n, length(to_eye));
}
"""
)
