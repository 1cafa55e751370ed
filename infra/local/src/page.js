"use strict";
// What comes from outside of this page enters it by textContent and attributes only.
const $ = (id) => document.getElementById(id);

function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name === "class") node.className = value;
    else if (name === "text") node.textContent = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

const TIME = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const DAY = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric" });
const BOTH = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

function when(text, long) {
  const date = new Date(text);
  if (Number.isNaN(date.getTime())) return "not known";
  if (long) return BOTH.format(date);
  return date.toDateString() === new Date().toDateString() ? TIME.format(date) : DAY.format(date);
}

async function ask(path, options) {
  const response = await fetch(path, options);
  if (!response.ok) throw new Error(response.status + " " + path);
  return response;
}

function live(on) {
  $("dot").classList.toggle("on", on);
  $("live").classList.toggle("on", on);
  $("state").textContent = on ? "live" : "not connected";
}

// The browser connects again by itself, but for good answers that are no events: those come from something else that
// has got the port.
function follow(path, handlers) {
  const events = new EventSource(path);
  events.addEventListener("open", () => live(true));
  events.addEventListener("error", () => {
    live(false);
    if (events.readyState === EventSource.CLOSED) setTimeout(() => follow(path, handlers), 3000);
  });
  for (const [name, handler] of Object.entries(handlers)) {
    events.addEventListener(name, (event) => handler(event.data ? JSON.parse(event.data) : null));
  }
}
