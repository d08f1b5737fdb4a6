// Conversations in the browser's storage, each under a key of its own, so that two tabs do not overwrite each other's.
// sessionStorage says which one this tab shows; it outlives a reload.
window.chatglm = (() => {
  "use strict";
  const PREFIX = "chatglm_cpp.";
  const CONVERSATION = PREFIX + "conversation.";
  const NAMES = PREFIX + "names";
  const SETTINGS = PREFIX + "settings";
  const THEME = PREFIX + "theme";
  const CURRENT = PREFIX + "current";
  const texts = navigator.language.toLowerCase().startsWith("zh") ? __CHINESE__ : __ENGLISH__;
  let doomed = [];
  let warned = false;

  const parse = (text, otherwise) => {
    try {
      return JSON.parse(text) ?? otherwise;
    } catch {
      return otherwise;
    }
  };
  const names = () => parse(localStorage.getItem(NAMES), {});
  const put = (key, value) => {
    try {
      localStorage.setItem(key, value);
    } catch {
      if (!warned) alert(texts.storage_full);
      warned = true;
    }
  };
  const ids = () =>
    Object.keys(localStorage)
      .filter((key) => key.startsWith(CONVERSATION))
      .map((key) => key.slice(CONVERSATION.length));

  // The list for a Radio: titles, the latest conversation first.
  const list = () => {
    const given = names();
    const found = ids()
      .map((id) => parse(localStorage.getItem(CONVERSATION + id), {}))
      .filter((conversation) => conversation.id)
      .sort((a, b) => b.updated - a.updated);
    const choices = found.map(({ id, title }) => [given[id] || title || texts.empty_title, id]);
    const current = sessionStorage.getItem(CURRENT);
    const value = choices.some(([, id]) => id === current) ? current : null;
    return { __type__: "update", choices, value };
  };

  const send = (fields) => JSON.stringify({ width: window.innerWidth, ...fields });

  return {
    start() {
      const theme = localStorage.getItem(THEME);
      if (theme) document.body.classList.toggle("dark", theme === "dark");
      const current = sessionStorage.getItem(CURRENT);
      return send({
        conversation: localStorage.getItem(CONVERSATION + current) ?? "",
        settings: parse(localStorage.getItem(SETTINGS), null),
      });
    },

    // Called with each conversation that the server sends. One without turns is not kept.
    save(stored) {
      const conversation = parse(stored, {});
      if (!conversation.id) return list();
      sessionStorage.setItem(CURRENT, conversation.id);
      const key = CONVERSATION + conversation.id;
      if (conversation.turns.length) {
        if (localStorage.getItem(key) !== stored) put(key, stored);
      } else {
        localStorage.removeItem(key);
      }
      return list();
    },

    open: (id) => send({ conversation: localStorage.getItem(CONVERSATION + id) ?? "" }),

    size: () => send({}),

    rename(id) {
      const title = id && prompt(texts.ask_title, list().choices.find((choice) => choice[1] === id)?.[0] ?? "");
      if (title?.trim()) put(NAMES, JSON.stringify({ ...names(), [id]: title.trim().slice(0, 200) }));
      return list();
    },

    // The answer is a value that changes when something is to be deleted, which `remove` then does.
    askDelete(id, before) {
      if (!id || !confirm(texts.ask_delete)) return before ?? "";
      doomed = [id];
      return String(Date.now());
    },

    askDeleteAll(before) {
      if (!ids().length || !confirm(texts.ask_delete_all)) return before ?? "";
      doomed = ids();
      return String(Date.now());
    },

    remove() {
      const given = names();
      for (const id of doomed) {
        localStorage.removeItem(CONVERSATION + id);
        delete given[id];
      }
      put(NAMES, JSON.stringify(given));
      doomed = [];
      return send({});
    },

    keepSettings(...values) {
      put(SETTINGS, JSON.stringify(values));
    },

    switchTheme() {
      const dark = document.body.classList.toggle("dark");
      put(THEME, dark ? "dark" : "light");
    },
  };
})();
