// Exactly the forecast on screen, for people who write code.

import { hasSession } from "./api.js";

/** {curl, python, javascript} of POST /v1/models/{model}/forecasts with this body. */
export function snippets(model, body) {
  const url = `${location.origin}/v1/models/${model}/forecasts`, json = JSON.stringify(body), withKey = hasSession();
  const python = json.replace(/\bnull\b/g, "None").replace(/\btrue\b/g, "True").replace(/\bfalse\b/g, "False");
  return {
    curl: [`curl -X POST ${url}`, `  -H 'Content-Type: application/json'`, ...(withKey ? [`  -H "Authorization: Bearer $ENGRAM_API_KEY"`] : []), `  -d '${json.replaceAll("'", "'\\''")}'`].join(" \\\n"),
    python: [
      ...(withKey ? ["import os", ""] : []), "import httpx  # pip install httpx", "",
      "answer = httpx.post(", `    "${url}",`, `    json=${python},`, ...(withKey ? [`    headers={"Authorization": f"Bearer {os.environ['ENGRAM_API_KEY']}"},`] : []), "    timeout=60,", ")",
      "answer.raise_for_status()", `forecast = answer.json()["forecasts"][0]`, `for timestamp, median in zip(forecast["timestamps"], forecast["median"]):`, "    print(timestamp, median)",
    ].join("\n"),
    javascript: [
      `const answer = await fetch("${url}", {`, `  method: "POST",`,
      withKey ? `  headers: { "Content-Type": "application/json", Authorization: \`Bearer \${process.env.ENGRAM_API_KEY}\` },` : `  headers: { "Content-Type": "application/json" },`,
      `  body: JSON.stringify(${json}),`, "});", "if (!answer.ok) throw new Error((await answer.json()).detail);", "const [forecast] = (await answer.json()).forecasts;",
      "forecast.timestamps.forEach((timestamp, index) => console.log(timestamp, forecast.median[index]));",
    ].join("\n"),
  };
}
