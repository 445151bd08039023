// Walks through the pages of a server with a real browser.
// usage: RESTIC_MANAGER_TEST_TOKEN=... node browser.mjs TOOLS URL DATA
// TOOLS: a directory with node_modules; DATA: the directory that web-1 backs up. Exit 0: all was as it should be; 1: stderr says what was not.
import { createRequire } from "node:module";
import { mkdirSync } from "node:fs";
import assert from "node:assert/strict";

const [tools, url, data] = process.argv.slice(2);
const require = createRequire(tools + "/");
const { chromium } = require("playwright-core");
const axe = require.resolve("axe-core/axe.min.js");
const shots = process.env.RESTIC_MANAGER_TEST_SHOTS;
if (shots) mkdirSync(shots, { recursive: true });

const complaints = [];
const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"] });

async function open(options) {
  const context = await browser.newContext({ httpCredentials: { username: "me", password: process.env.RESTIC_MANAGER_TEST_TOKEN }, ...options });
  const page = await context.newPage();
  page.on("console", (message) => {
    if (message.type() === "error" && !message.text().includes("net::ERR_ABORTED")) complaints.push(`${page.url()}: ${message.text()}`);
  });
  page.on("pageerror", (error) => complaints.push(`${page.url()}: ${error}`));
  page.on("request", (request) => {
    if (!request.url().startsWith(url + "/")) complaints.push(`${page.url()} asks ${request.url()}`);
  });
  page.on("dialog", (dialog) => {
    // Only a script that a host has smuggled in would.
    if (dialog.type() === "alert") complaints.push(`${page.url()}: a script said ${dialog.message()}`);
    return dialog.accept();
  });
  page.setDefaultTimeout(30000);
  return page;
}

// axe is put in beside the page's policy, which would not let it: through the debugger, as playwright does all.
async function judge(page, what) {
  await page.evaluate(require("node:fs").readFileSync(axe, "utf8"));
  const found = await page.evaluate(() => axe.run(document, { resultTypes: ["violations"] }));
  for (const { id, impact, help, nodes } of found.violations) {
    const line = `${what}: ${impact}: ${id}: ${help}: ${nodes.map((node) => node.html.slice(0, 160)).slice(0, 3).join(" | ")}`;
    if (impact === "serious" || impact === "critical") complaints.push(line);
    else console.log(line);
  }
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  if (wide > 0) complaints.push(`${what}: is ${wide} pixels wider than the screen`);
}

const page = await open({ viewport: { width: 1024, height: 900 } });

// By keyboard: the first stop leads past the navigation.
await page.goto(url + "/");
await page.keyboard.press("Tab");
assert.equal(await page.evaluate(() => document.activeElement.textContent), "Skip to the content");
await page.keyboard.press("Enter");
assert.equal(await page.evaluate(() => document.activeElement.id), "main");

// Who comes by a link to a page below is signed in for what its script asks, too.
const linked = await open({});
await linked.goto(url + "/hosts/web-1");
await linked.locator("#live", { hasText: "Live" }).waitFor();
await linked.context().close();

// The fleet: filtered by name, and back.
await page.getByLabel("Name contains").fill("db-");
await page.getByRole("button", { name: "Filter" }).click();
await page.waitForURL(/name=db-/);
assert.equal(await page.locator("#hosts tbody tr").count(), 8);
await page.goto(url + "/");
await page.locator("#live", { hasText: "Live" }).waitFor();

// To the host, and run its schedule.
await page.locator("#hosts").getByRole("link", { name: "web-1", exact: true }).click();
await page.getByRole("heading", { level: 1, name: "web-1" }).waitFor();
await page.getByRole("button", { name: "Run now: data" }).click();
await page.waitForURL(/\/jobs\//);
// The job: nobody loads the page again, and it ends on it all the same.
await page.evaluate(() => { window.isTheSame = true; });
await page.locator("main .mood", { hasText: "succeeded" }).first().waitFor();
assert.equal(await page.evaluate(() => window.isTheSame), true);
assert.match(await page.locator("#log-lines").textContent(), /agent: |files_new|snapshot/);
const job = page.url();

// What happens while somebody types and has a part open takes neither away.
await page.goto(url + "/hosts/web-1");
await page.locator("#live", { hasText: "Live" }).waitFor();
const details = page.locator("#plots details").first();
await details.locator("summary").click();
await details.locator("summary").focus();
const before = await page.locator("#jobs tbody tr").first().getAttribute("id");
const authorization = "Bearer " + process.env.RESTIC_MANAGER_TEST_TOKEN;
await fetch(url + "/v1/hosts/web-1/jobs?wait=60", { method: "POST", headers: { authorization, "content-type": "application/json" }, body: '{"schedule_id":"data"}' });
await page.waitForFunction((id) => document.querySelector("#jobs tbody tr").id !== id, before);
assert.equal(await details.evaluate((part) => part.open && part.contains(document.activeElement)), true);

// The newest snapshot, into its folders, a file selected, and the line for it.
await page.waitForFunction((text) => document.querySelector("#snapshots tbody tr").textContent.includes(text), data);
await page.locator("#snapshots tbody a").first().click();
await page.getByRole("heading", { level: 1, name: /^Snapshot/ }).waitFor();
const snapshot = page.url();
for (const folder of data.split("/").filter(Boolean)) {
  await page.locator("#entries").getByRole("link", { name: folder + "/", exact: true }).click();
  await page.locator(".crumbs").getByRole("link", { name: folder, exact: true }).waitFor();
}
const folder = page.url();
await page.getByLabel("Select file-7", { exact: true }).check();
const line = await page.locator("#command").textContent();
assert.ok(line.includes(`"paths":["${data}/file-7"]`) && line.includes(`'${url}/v1/hosts/web-1/restore'`), line);
// The selection is still there above, and after a reload.
await page.locator(".crumbs").getByRole("link", { name: "All" }).click();
await page.locator("#chosen li", { hasText: "file-7" }).waitFor();
await page.reload();
await page.locator("#chosen li", { hasText: "file-7" }).waitFor();
await page.getByRole("button", { name: "Restore", exact: true }).click();
await page.waitForURL(/\/jobs\//);
await page.locator("main .mood", { hasText: "succeeded" }).first().waitFor();
const restored = page.url();

// An alert is acknowledged, and the page says by whom.
await page.goto(url + "/alerts");
const buttons = page.getByRole("button", { name: /Acknowledge/ });
const open_alerts = await buttons.count();
await buttons.first().click();
await page.waitForFunction((count) => document.querySelectorAll("button[data-post$='/ack']").length === count - 1, open_alerts);

// Every page, in every size, light and dark.
const pages = { fleet: "/", host: "/hosts/db-1", "host-web": "/hosts/web-1", job, restored, snapshot, folder, alerts: "/alerts", audit: "/audit", none: "/hosts/nowhere" };
// Without pictures the narrow light ones and the wide dark ones do.
const views = shots ? ["light", "dark"].flatMap((colors) => [380, 1024, 1920].map((width) => [colors, width])) : [["light", 380], ["dark", 1920]];
for (const [colorScheme, width] of views) {
  const view = await open({ viewport: { width, height: 900 }, colorScheme });
  for (const [name, path] of Object.entries(pages)) {
    await view.goto(path.startsWith("/") ? url + path : path);
    await judge(view, `${name} ${width} ${colorScheme}`);
    if (shots) await view.screenshot({ path: `${shots}/${name}-${width}-${colorScheme}.png`, fullPage: true });
  }
  await view.context().close();
}

// Thirty days are seen at once on anything but a phone.
for (const width of [1024, 1100]) {
  const view = await open({ viewport: { width, height: 900 } });
  await view.goto(url + "/hosts/db-1");
  const hidden = await view.evaluate(() => { const days = document.querySelector(".calendar"); return days.scrollWidth - days.clientWidth; });
  assert.ok(hidden <= 0, `at ${width} pixels ${hidden} of the calendar are out of sight`);
  await view.context().close();
}

// Without a script there is all but the buttons.
const plain = await open({ javaScriptEnabled: false });
await plain.goto(url + "/");
assert.equal(await plain.locator("#hosts tbody tr").count(), 40);
await plain.goto(folder);
assert.ok((await plain.locator("#command").textContent()).includes(`"paths":["${data}"]`));
assert.equal(await plain.getByRole("button", { name: "Restore" }).isVisible(), false);

await browser.close();
const expected = (line) => line.includes("/hosts/nowhere") && line.includes("404");
const real = [...new Set(complaints)].filter((line) => !expected(line));
if (real.length) {
  console.error(real.join("\n"));
  process.exit(1);
}
