"""Opens the status page of a running admin listener in headless Chromium, and looks whether it holds what it promises.

    scripts/measure/statuspage.py http://127.0.0.1:9901/ [--out FOLDER] [--seconds N] [--chromium PATH]

Four settings: 1280x900 and 375x812, light and dark. Each leaves a picture of the whole page in the folder. Exit status 1
if the page logs an error, breaks its own Content-Security-Policy, shows no figures, or is wider than the screen.
"""
import argparse, base64, itertools, json, os, pathlib, select, subprocess, sys, tempfile, time

SIZES = ((1280, 900), (375, 812))
TALLEST = 12000     # pixels of a picture
LOOK = """(() => {
  const width = document.documentElement.clientWidth;
  const isWide = element => element.getBoundingClientRect().right > width + 1 && !element.closest(".unseen");
  return {
    width, content: document.documentElement.scrollWidth, height: document.documentElement.scrollHeight,
    wide: [...document.querySelectorAll("body *")].filter(isWide).slice(0, 3).map(e => e.tagName + "." + e.className),
    state: document.body.className, lines: document.querySelectorAll("#routes tbody tr").length,
    headline: document.querySelector("h1").textContent.trim(),
  };
})()"""


class Browser:
    """Chromium with a profile of its own, spoken to by the DevTools protocol over a pair of pipes."""

    def __init__(self, path):
        self.profile = tempfile.TemporaryDirectory(prefix="statuspage-", ignore_cleanup_errors=True)
        reserved = []                                   # the browser wants its pipes at 3 and 4: nothing else may be there
        while not reserved or reserved[-1] < 5:
            reserved.append(os.open(os.devnull, os.O_RDONLY))
        theirs_in, self.write_end = os.pipe()
        self.read_end, theirs_out = os.pipe()
        arguments = [path, "--headless=new", "--no-sandbox", "--remote-debugging-pipe", "--no-first-run",
                     "--user-data-dir=" + self.profile.name, "--disable-gpu", "--disable-dev-shm-usage",
                     "--disable-background-networking", "--disable-component-update", "--hide-scrollbars", "about:blank"]
        self.process = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, pass_fds=(3, 4),
            preexec_fn=lambda: (os.dup2(theirs_in, 3), os.dup2(theirs_out, 4)))
        for descriptor in (*reserved, theirs_in, theirs_out):
            os.close(descriptor)
        self.numbers, self.received, self.events = itertools.count(1), b"", []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self.call("Browser.close")
            self.process.wait(5)
        except (OSError, EOFError, TimeoutError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()
        self.profile.cleanup()

    def call(self, method, session=None, **parameters):
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self.write_end, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            answer = self.receive(deadline - time.monotonic())
            if answer and answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError("%s: %s" % (method, answer["error"]["message"]))
                return answer["result"]
        raise TimeoutError(method)

    def receive(self, seconds):
        """The next message, or None; events are kept."""
        deadline = time.monotonic() + seconds
        while b"\0" not in self.received:
            if not select.select([self.read_end], [], [], max(0, deadline - time.monotonic()))[0]:
                return None
            data = os.read(self.read_end, 1 << 20)
            if not data:
                raise EOFError("the browser is gone")
            self.received += data
        text, _, self.received = self.received.partition(b"\0")
        message = json.loads(text)
        if "method" in message:
            self.events.append(message)
        return message

    def watch(self, seconds):
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.receive(left)


def complaints(events):
    """What a page logged as an error. Violations of its policy are among it."""
    for event in events:
        told = event["params"]
        if event["method"] == "Runtime.exceptionThrown":
            details = told["exceptionDetails"]
            yield "%s (line %d)" % (details.get("exception", {}).get("description", details["text"]), details["lineNumber"])
        elif event["method"] == "Runtime.consoleAPICalled" and told["type"] in ("error", "assert"):
            yield " ".join(str(part.get("value", part.get("description"))) for part in told["args"])
        elif event["method"] == "Log.entryAdded" and told["entry"]["level"] == "error":
            yield told["entry"]["text"] + " " + told["entry"].get("url", "")


def look_at(browser, url, size, scheme, seconds, out):
    width, height = size
    name = "%dx%d-%s" % (width, height, scheme)
    target = browser.call("Target.createTarget", url="about:blank")["targetId"]
    session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    browser.events.clear()
    for domain in ("Page", "Runtime", "Log"):
        browser.call(domain + ".enable", session)
    browser.call("Emulation.setDeviceMetricsOverride", session, width=width, height=height, deviceScaleFactor=1,
                 mobile=width < 600)
    browser.call("Emulation.setEmulatedMedia", session, features=[{"name": "prefers-color-scheme", "value": scheme}])
    failed = browser.call("Page.navigate", session, url=url).get("errorText")
    browser.watch(seconds)
    seen = browser.call("Runtime.evaluate", session, expression=LOOK, returnByValue=True)["result"].get("value")
    clip = {"x": 0, "y": 0, "width": width, "height": min(TALLEST, seen["height"] if seen else height), "scale": 1}
    picture = browser.call("Page.captureScreenshot", session, clip=clip, captureBeyondViewport=True)["data"]
    (out / (name + ".png")).write_bytes(base64.b64decode(picture))
    faults = ["cannot be opened: " + failed] if failed else list(complaints(browser.events))
    if not seen:
        faults.append("is no page")
    elif not failed:
        if seen["content"] > width:
            faults.append("is %d pixels wide: %s" % (seen["content"], ", ".join(seen["wide"])))
        if not {"running", "draining"} & set(seen["state"].split()):
            faults.append("shows no figures: " + (seen["state"] or "no state"))
    browser.call("Target.closeTarget", targetId=target)
    print("%-4s %-14s %s" % ("FAIL" if faults else "ok", name, "%(headline)s (%(lines)d routes shown, %(height)d pixels tall)" % seen
                             if seen and not failed else ""))
    for fault in dict.fromkeys(faults):
        print("     it " + fault if fault.startswith(("is ", "shows ", "cannot ")) else "     it logs: " + fault)
    return not faults


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("statuspage"))
    parser.add_argument("--seconds", type=float, default=5, help="how long each setting watches before its picture")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with Browser(options.chromium) as browser:
        results = [look_at(browser, options.url, size, scheme, options.seconds, options.out)
                   for size in SIZES for scheme in ("light", "dark")]
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
