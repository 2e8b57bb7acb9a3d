// What may follow is offered while a query is typed. Without scripts it is offered with each answer.
"use strict";

const box = document.getElementById("q");
const list = document.getElementById("suggestions");
const PAUSE_MS = 120; // of typing, before the server is asked
const SHOWN_MAX = 40;
let timer = 0;

async function offer() {
  const text = box.value;
  const answer = await fetch("/v1/complete?text=" + encodeURIComponent(text));
  if (!answer.ok || box.value !== text) return;
  const letters = Array.from(text); // the server counts characters, not halves of them
  const found = (await answer.json()).completions.slice(0, SHOWN_MAX);
  list.replaceChildren(...found.map(({ text: word, replaced }) => {
    const option = document.createElement("option");
    option.value = letters.slice(0, letters.length - replaced).join("") + word;
    return option;
  }));
}

box.addEventListener("input", () => {
  clearTimeout(timer);
  timer = setTimeout(() => offer().catch(() => {}), PAUSE_MS);
});
