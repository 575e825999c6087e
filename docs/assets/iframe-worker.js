// Browsers start no Web Worker from file://. There, this class runs the search worker's script in a hidden iframe.
class IFrameWorker extends EventTarget {
  constructor(url) {
    super();
    const frame = document.createElement("iframe");
    frame.hidden = true;
    document.body.append(frame);
    this.frame = frame.contentWindow;
    this.frame.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
    this.frame.importScripts = (...urls) =>
      urls.reduce((earlier, next) => earlier.then(() => this.load(next)), Promise.resolve());
    this.ready = this.load(url);
  }

  load(url) {
    return new Promise((resolve, reject) => {
      const script = this.frame.document.createElement("script");
      Object.assign(script, { src: url, onload: resolve, onerror: reject });
      this.frame.document.body.append(script);
    });
  }

  postMessage(data) {
    this.ready.then(() => this.frame.dispatchEvent(new MessageEvent("message", { data })));
  }
}

if (location.protocol === "file:") window.Worker = IFrameWorker;
