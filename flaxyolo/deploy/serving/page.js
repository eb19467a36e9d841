'use strict';

const LOWEST = 0.05; // asked for once; the slider chooses among what came
const MOST_HEIGHT = 0.75; // of the window
const LEAST_WIDTH = 480; // to which a small image is enlarged, where there is room

const at = (id) => document.getElementById(id);
const drop = at('drop'), file = at('file'), least = at('least'), canvas = at('canvas');
let health = null, picture = null, answer = null, asked = 0;

const many = (count, thing) => `${count} ${thing}${count === 1 ? '' : 's'}`;
const hue = (index) => (index * 137.508 + 210) % 360;

function say(text, wrong = false) {
  at('said').textContent = text;
  at('said').classList.toggle('wrong', wrong);
}

async function tellAbout() {
  health = await (await fetch('health')).json();
  const names = health.classes.slice(0, 12).join(', ');
  const more = health.classes.length > 12 ? ` and ${health.classes.length - 12} more` : '';
  at('about').textContent = `${health.model}, ${health.image_size} px; finds ${names}${more}`;
  least.value = health.min_score;
  at('shown-least').textContent = Number(least.value).toFixed(2);
}

async function detailOf(response) {
  try {
    return (await response.json()).detail;
  } catch (error) {
    return `the server answered ${response.status} ${response.statusText}`;
  }
}

async function detect(image) {
  const mine = ++asked;
  if (health && image.size > health.max_bytes) {
    const limit = health.max_bytes / 1e6;
    say(`The file has ${(image.size / 1e6).toFixed(1)} MB; the most is ${limit} MB.`, true);
    return;
  }
  say('Looking …');
  try {
    const form = new FormData();
    form.append('file', image, image.name || 'pasted image');
    const response = await fetch(`predict?min_score=${LOWEST}`, { method: 'POST', body: form });
    if (mine !== asked) return;
    if (!response.ok) throw new Error(await detailOf(response));
    const found = await response.json();
    const shown = await createImageBitmap(image).catch(() => null);
    if (mine !== asked) return;
    picture?.close();
    [picture, answer] = [shown, found];
    at('result').hidden = false;
    show();
  } catch (error) {
    if (mine !== asked) return;
    at('result').hidden = true;
    const lost = error instanceof TypeError ? 'The server cannot be reached.' : error.message;
    say(lost, true);
  }
}

function show() {
  if (!answer) return;
  const chosen = answer.detections.filter((one) => one.score >= Number(least.value));
  const { width, height } = answer.image;
  const unseen = picture ? '' : '; this browser cannot show such a file, only its boxes';
  say(`${many(chosen.length, 'object')} in ${width} × ${height} pixels, ` +
      `${answer.milliseconds.toFixed(0)} ms${unseen}`);
  draw(chosen, width, height);
  at('rows').replaceChildren(...chosen.map(row));
}

function row(one) {
  const line = document.createElement('tr');
  const chip = document.createElement('span');
  chip.className = 'chip';
  chip.style.background = `hsl(${hue(one.class_index)} 75% 55%)`;
  const cells = [one.class_name, one.score.toFixed(2), ...one.box.map((side) => side.toFixed(1))];
  for (const text of cells) {
    const cell = document.createElement('td');
    cell.textContent = text;
    line.append(cell);
  }
  line.firstChild.prepend(chip);
  return line;
}

function draw(chosen, width, height) {
  const room = at('result').clientWidth;
  const wide = Math.min(room, Math.max(width, LEAST_WIDTH));
  const scale = Math.min(wide / width, Math.max(window.innerHeight * MOST_HEIGHT, 240) / height);
  const sharp = window.devicePixelRatio || 1;
  canvas.width = Math.max(1, Math.round(width * scale * sharp));
  canvas.height = Math.max(1, Math.round(height * scale * sharp));
  canvas.style.width = `${canvas.width / sharp}px`;
  const pen = canvas.getContext('2d');
  pen.scale(sharp, sharp);
  pen.fillStyle = '#7f7f7f';
  pen.fillRect(0, 0, width * scale, height * scale);
  if (picture) pen.drawImage(picture, 0, 0, width * scale, height * scale);
  pen.font = '600 13px system-ui, sans-serif';
  pen.textBaseline = 'middle';
  for (const one of [...chosen].reverse()) drawBox(pen, one, scale, width * scale); // best on top
}

function drawBox(pen, one, scale, right) {
  const [x0, y0, x1, y1] = one.box.map((side) => side * scale);
  const colour = `hsl(${hue(one.class_index)} 85% 62%)`;
  pen.strokeStyle = 'rgb(0 0 0 / 0.55)';
  pen.lineWidth = 4;
  pen.strokeRect(x0, y0, x1 - x0, y1 - y0);
  pen.strokeStyle = colour;
  pen.lineWidth = 2;
  pen.strokeRect(x0, y0, x1 - x0, y1 - y0);
  const text = `${one.class_name} ${one.score.toFixed(2)}`;
  const long = pen.measureText(text).width + 10;
  const left = Math.max(0, Math.min(x0 - 1, right - long));
  const top = y0 >= 20 ? y0 - 20 : y0;
  pen.fillStyle = colour;
  pen.fillRect(left, top, long, 20);
  pen.fillStyle = '#10151b';
  pen.fillText(text, left + 5, top + 10.5);
}

function take(files) {
  if (files.length === 0) return;
  if (files.length > 1) say('One image at a time, please.', true);
  else detect(files[0]);
}

file.addEventListener('change', () => {
  take(file.files);
  file.value = ''; // the same file may be chosen again
});
for (const [name, over] of [['dragenter', true], ['dragover', true], ['dragleave', false],
  ['drop', false]]) {
  document.addEventListener(name, (event) => {
    event.preventDefault(); // a browser would open the file otherwise
    drop.classList.toggle('over', over);
    if (name === 'drop') take(event.dataTransfer.files);
  });
}
document.addEventListener('paste', (event) => take(event.clipboardData.files));
least.addEventListener('input', () => {
  at('shown-least').textContent = Number(least.value).toFixed(2);
  show();
});
window.addEventListener('resize', show);
tellAbout().catch(() => say('The server cannot be reached.', true));
