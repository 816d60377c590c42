// The page of edgeemo-serve: pictures of all calls come as server-sent events, twice a second; sound goes out over a WebSocket.
"use strict";
const RIBBON_S = 60, MOST_EVENTS = 200;
const $ = (id) => document.getElementById(id);
const rows = new Map();   // by call and leg: {cells, steps}
let labels = [], chosen = null, source = null;

const colour = (label) => getComputedStyle(document.documentElement).getPropertyValue(`--l${label % 7}`).trim();
const element = (name, text, className) => {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
};

function canvas2d(canvas) {
  const ratio = window.devicePixelRatio || 1, box = canvas.getBoundingClientRect();
  const width = Math.round(box.width * ratio), height = Math.round(box.height * ratio);
  if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.globalAlpha = 1;
  context.clearRect(0, 0, box.width, box.height);
  return [context, box.width, box.height];
}

// Each step a bar: its colour the label, its height the confidence.
function drawBars(canvas, steps, begin, end, top = 0) {
  const [context, width, height] = canvas2d(canvas);
  const scale = width / Math.max(1e-6, end - begin);
  for (const [at, label, confidence] of steps) {
    if (at < begin) continue;
    context.fillStyle = colour(label);
    const tall = Math.max(2, (height - top) * confidence);
    context.fillRect((at - 0.16 - begin) * scale, height - tall, Math.max(1, 0.16 * scale), tall);
  }
  return [context, width, height];
}

function makeRow(row) {
  const line = element("tr");
  const cells = ["wide", "wide", "", "", "", ""].map((name) => line.appendChild(element("td", undefined, name)));
  const open = cells[0].appendChild(element("button", row.call));
  open.type = "button";
  open.title = row.call;
  open.addEventListener("click", () => showDetail(row.call, row.leg));
  cells[0].appendChild(element("span", "", "sub"));
  const ribbon = cells[1].appendChild(element("canvas", undefined, "ribbon"));
  ribbon.setAttribute("role", "img");
  $("calls").appendChild(line);
  return { line, cells, ribbon, steps: [] };
}

function showCall(row) {
  const key = `${row.call} ${row.leg}`;
  if (!rows.has(key)) rows.set(key, makeRow(row));
  const shown = rows.get(key);
  shown.steps.push(...row.steps);
  const last = shown.steps.at(-1), now = last ? last[0] : 0;
  shown.steps = shown.steps.filter(([at]) => at > now - RIBBON_S);
  const said = row.intensity || row.label || "listening";
  shown.cells[0].lastChild.textContent = `${row.leg}, ${row.protocol}, ${row.seconds} s`;
  drawBars(shown.ribbon, shown.steps, Math.max(0, now - RIBBON_S), Math.max(RIBBON_S, now));
  shown.ribbon.setAttribute("aria-label", `Last minute of ${row.call}, ${row.leg}: now ${said}`);
  shown.cells[2].textContent = said;
  shown.cells[3].textContent = last ? `${Math.round(100 * last[2])} %` : "";
  shown.cells[4].textContent = last ? `${Math.round(last[3])} ms` : "";
  shown.cells[5].textContent = row.handoff || "";
  shown.cells[5].className = row.handoff ? "handoff" : "";
  return key;
}

function showEvents(events) {
  const list = $("events");
  for (const event of events) {
    const line = element("li");
    const when = new Date(1000 * event.time);
    line.appendChild(element("time", when.toLocaleTimeString())).dateTime = when.toISOString();
    line.append(`${event.call} ${describe(event)}`);
    list.prepend(line);
  }
  while (list.children.length > MOST_EVENTS) list.lastChild.remove();
}

function describe(event) {
  const who = event.leg ? `(${event.leg}) ` : "";
  switch (event.type) {
    case "begin": return `begins over ${event.protocol}`;
    case "segment": return event.final
      ? `${who}was ${event.intensity || event.label} from ${event.begin_s} to ${event.end_s} s`
      : `${who}sounds ${event.intensity || event.label}`;
    case "handoff": return `${who}should go to a person: ${event.reason}`;
    case "end": return `has ended: ${event.reason}`;
    default: return event.type;
  }
}

function showPicture(picture) {
  if (picture.labels.join() !== labels.join()) {
    labels = picture.labels;
    $("legend").replaceChildren(...labels.map((name, i) => {
      const line = element("li");
      line.appendChild(element("span")).style.background = `var(--l${i % 7})`;
      line.append(name);
      return line;
    }));
  }
  $("state").textContent = `${picture.ready}: ${picture.channels} of ${picture.capacity} channels in use, ${picture.engines} engine`
    + `${picture.engines === 1 ? "" : "s"}${picture.restarts ? `, ${picture.restarts} restarted` : ""}`;
  const alive = new Set(picture.calls.map(showCall));
  for (const [key, row] of rows) {
    if (!alive.has(key)) { row.line.remove(); rows.delete(key); }
  }
  $("none").hidden = rows.size > 0;
  showEvents(picture.events);
  if (chosen) drawDetail();
}

async function showDetail(call, leg) {
  chosen = { call, leg, steps: [] };
  $("detail").hidden = false;
  $("detail-heading").textContent = `${call}, ${leg}`;
  $("detail-heading").focus();
  await drawDetail();
}

async function drawDetail() {
  const mine = chosen;
  const answer = await fetch(`/v1/calls/${encodeURIComponent(mine.call)}/curve`);
  if (mine !== chosen) return;
  if (answer.ok) mine.steps = (await answer.json()).legs[mine.leg] || [];
  else mine.ended = true;
  const end = mine.steps.length ? mine.steps.at(-1)[0] : 1;
  const [context, width, height] = drawBars($("curve"), mine.steps, 0, end, 10);
  context.strokeStyle = context.fillStyle = getComputedStyle(document.body).color;
  context.globalAlpha = 0.6;
  context.font = "12px system-ui";
  for (const share of [0.5, 1]) {
    const y = height - share * (height - 10);
    context.beginPath(); context.moveTo(0, y); context.lineTo(width, y); context.stroke();
    context.fillText(`${100 * share} %`, 2, y + 12);
  }
  const counts = new Map();
  for (const [, label] of mine.steps) counts.set(label, (counts.get(label) || 0) + 1);
  const shares = [...counts].sort((a, b) => b[1] - a[1]).map(([l, n]) => `${labels[l]} ${Math.round(100 * n / mine.steps.length)} %`);
  const text = `${Math.round(end)} s${mine.ended ? ", ended" : ""}: ${shares.join(", ") || "nothing yet"}`;
  $("curve-said").textContent = text;
  $("curve").setAttribute("aria-label", `Confidence over time, coloured by label. ${text}`);
}

async function connect() {
  const answer = await fetch("/v1/status");
  $("token-form").hidden = answer.status !== 401;
  if (!answer.ok) { $("state").textContent = answer.status === 401 ? "a token is asked for" : "not available"; return; }
  source = new EventSource("/v1/live");
  source.onmessage = (message) => showPicture(JSON.parse(message.data));
  source.onerror = () => {
    $("state").textContent = "connection lost, trying again";
    source.close();
    setTimeout(() => connect().catch(() => source.onerror()), 2000);
  };
}

$("token-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const headers = { Authorization: `Bearer ${$("token").value}` };
  const answer = await fetch("/v1/session", { method: "POST", headers });
  $("token").value = "";
  $("token-said").textContent = answer.ok ? "" : "That token is not known.";
  if (answer.ok) connect();
});
$("detail-close").addEventListener("click", () => { chosen = null; $("detail").hidden = true; $("calls-heading").focus(); });
document.addEventListener("keydown", (event) => { if (event.key === "Escape" && chosen) $("detail-close").click(); });

// -- the microphone: 16-bit samples at the sound card's rate, as docs/live-calls.md describes ------------------------------
let speaking = null;
const tellMicrophone = (text) => { $("microphone-said").textContent = text; };

async function listen() {
  const stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false } });
  const context = new AudioContext();
  await context.audioWorklet.addModule("/microphone.js");
  const node = new AudioWorkletNode(context, "microphone", { numberOfOutputs: 0 });
  const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/v1/listen`);
  const call = `microphone-${crypto.getRandomValues(new Uint32Array(1))[0].toString(16)}`;
  speaking = { stream, context, socket, call };
  socket.onopen = () => {
    socket.send(JSON.stringify({ edgeemo: 1, format: "s16", rate: context.sampleRate, call }));
    node.port.onmessage = (message) => { if (socket.readyState === WebSocket.OPEN) socket.send(message.data); };
    context.createMediaStreamSource(stream).connect(node);
    tellMicrophone(`Listening as ${call}.`);
  };
  socket.onmessage = (message) => {
    const event = JSON.parse(message.data);
    if (event.type === "segment" && !event.final) tellMicrophone(`Sounds ${event.intensity || event.label} (predicted).`);
    else if (event.type === "refused") tellMicrophone(`Not taken: ${event.reason}`);
  };
  socket.onclose = () => { if (speaking && speaking.socket === socket) stopListening(); };
  $("microphone").textContent = "Stop";
  $("microphone").setAttribute("aria-pressed", "true");
}

function stopListening() {
  const { stream, context, socket } = speaking;
  speaking = null;
  stream.getTracks().forEach((track) => track.stop());
  context.close();
  if (socket.readyState === WebSocket.OPEN) socket.send('{"end": true}');
  $("microphone").textContent = "Listen to this microphone";
  $("microphone").setAttribute("aria-pressed", "false");
}

$("microphone").addEventListener("click", () => {
  if (speaking) { stopListening(); tellMicrophone("Stopped."); return; }
  if (!navigator.mediaDevices) { tellMicrophone("A browser gives a page its microphone only over https, or on this machine."); return; }
  listen().catch((error) => tellMicrophone(`No microphone: ${error.message}`));
});

connect().catch(() => { $("state").textContent = "not available"; });
