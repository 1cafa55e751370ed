//! A headless Chromium, driven by `WebDriver` (<https://www.w3.org/TR/webdriver2/>).

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use reqwest::{Client, Method};
use serde_json::{Value, json};
use tempfile::TempDir;

/// How long a condition may take to come true, in milliseconds: far more than it takes.
const PATIENCE: u64 = 30_000;

/// Keys as `WebDriver` writes them (section 17.4.2, "Keyboard actions").
pub(crate) mod key {
    pub(crate) const TAB: &str = "\u{E004}";
    pub(crate) const ENTER: &str = "\u{E007}";
    pub(crate) const ESCAPE: &str = "\u{E00C}";
    pub(crate) const DOWN: &str = "\u{E015}";
    pub(crate) const END: &str = "\u{E010}";
}

pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// A browser with one window; it ends with this value.
pub(crate) struct Browser {
    driver: Child,
    client: Client,
    /// The session's URL.
    session: String,
    profile: TempDir,
}

impl Browser {
    /// Starts `chromedriver` (or what `CHROMEDRIVER` names), and by it `/usr/bin/chromium` (or what `CHROMIUM` names).
    pub(crate) async fn start() -> Result<Self> {
        let named = |variable, otherwise: &str| {
            std::env::var(variable).unwrap_or_else(|_| otherwise.to_owned())
        };
        let program = named("CHROMEDRIVER", "chromedriver");
        let mut driver = Command::new(&program)
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("{program}: {error}; install Debian's chromium-driver"))?;
        let profile = tempfile::tempdir()?;
        let port = port(&mut driver)?;
        let client = Client::builder().no_proxy().build()?;
        let mut browser = Self {
            driver,
            client,
            session: format!("http://127.0.0.1:{port}/session"),
            profile,
        };
        let arguments = [
            "--headless",
            // Its sandbox refuses to work for root, as which CI's containers run. All it is shown is our own pages.
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--lang=en-GB",
            "--window-size=1360,860",
        ];
        let mut arguments: Vec<String> = arguments.map(str::to_owned).into();
        let profile = browser.profile.path().display();
        arguments.push(format!("--user-data-dir={profile}"));
        let answer = browser
            .ask(
                Method::POST,
                "",
                &json!({"capabilities": {"alwaysMatch": {
                    "browserName": "chrome",
                    "timeouts": {"script": PATIENCE},
                    "goog:loggingPrefs": {"browser": "ALL"},
                    "goog:chromeOptions": {
                        "binary": named("CHROMIUM", "/usr/bin/chromium"),
                        "args": arguments,
                    },
                }}}),
            )
            .await?;
        let id = answer["sessionId"].as_str().ok_or("no session")?;
        browser.session = format!("{}/{id}", browser.session);
        Ok(browser)
    }

    async fn ask(&self, method: Method, path: &str, body: &Value) -> Result<Value> {
        let mut request = self
            .client
            .request(method.clone(), format!("{}{path}", self.session));
        if method == Method::POST {
            request = request.json(body);
        }
        let mut answer: Value = request.send().await?.json().await?;
        let value = answer["value"].take();
        match value["error"].as_str() {
            Some(error) => Err(format!(
                "{path}: {error}: {}",
                value["message"].as_str().unwrap_or("")
            )
            .into()),
            None => Ok(value),
        }
    }

    async fn post(&self, path: &str, body: Value) -> Result<Value> {
        self.ask(Method::POST, path, &body).await
    }

    /// Opens a page.
    pub(crate) async fn go(&self, url: &str) -> Result<()> {
        self.post("/url", json!({"url": url})).await.map(drop)
    }

    /// The value of an expression.
    pub(crate) async fn value(&self, expression: &str) -> Result<Value> {
        let script = format!("return ({expression})");
        self.post("/execute/sync", json!({"script": script, "args": []}))
            .await
    }

    /// Waits until an expression is true of a frame that is shown, and returns what it is. One that throws is not.
    pub(crate) async fn until(&self, expression: &str) -> Result<Value> {
        let script = format!(
            "const done = arguments[0];
             const value = async () => {{ try {{ return await ({expression}); }} catch {{ return null; }} }};
             const look = async () => {{
               const now = await value();
               if (now) done(now); else requestAnimationFrame(look);
             }};
             look();"
        );
        let body = json!({"script": script, "args": []});
        match self.post("/execute/async", body).await {
            Ok(value) => Ok(value),
            Err(error) => {
                let page = self.value("document.body.innerText").await?;
                Err(format!("never: {expression}\n{error}\n{page}").into())
            }
        }
    }

    /// Presses a key.
    pub(crate) async fn press(&self, key: &str) -> Result<()> {
        let actions = json!([{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]);
        let body = json!({"actions": [{"type": "key", "id": "keyboard", "actions": actions}]});
        self.post("/actions", body).await.map(drop)
    }

    /// Clicks on the first element that a CSS selector finds.
    pub(crate) async fn click(&self, selector: &str) -> Result<()> {
        let body = json!({"using": "css selector", "value": selector});
        let element = self.post("/element", body).await?;
        let id = element
            .as_object()
            .and_then(|element| element.values().next()?.as_str())
            .ok_or("no element")?;
        self.post(&format!("/element/{id}/click"), json!({}))
            .await
            .map(drop)
    }

    /// Shows pages as on a screen of this width, in light or dark.
    pub(crate) async fn screen(&self, width: u32, height: u32, is_dark: bool) -> Result<()> {
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500});
        self.devtools("Emulation.setDeviceMetricsOverride", metrics)
            .await?;
        let scheme = if is_dark { "dark" } else { "light" };
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.devtools("Emulation.setEmulatedMedia", json!({"features": features}))
            .await
    }

    async fn devtools(&self, command: &str, parameters: Value) -> Result<()> {
        let body = json!({"cmd": command, "params": parameters});
        self.post("/goog/cdp/execute", body).await.map(drop)
    }

    /// What the console has got since the last time.
    pub(crate) async fn console(&self) -> Result<Vec<String>> {
        let entries = self.post("/se/log", json!({"type": "browser"})).await?;
        let entries = entries.as_array().ok_or("no log")?;
        Ok(entries.iter().map(Value::to_string).collect())
    }

    /// Saves what is shown as a PNG in the directory `SCREENSHOTS`, where that is set.
    pub(crate) async fn picture(&self, name: &str) -> Result<()> {
        let Some(directory) = std::env::var_os("SCREENSHOTS") else {
            return Ok(());
        };
        let picture = self.ask(Method::GET, "/screenshot", &Value::Null).await?;
        let picture = BASE64.decode(picture.as_str().ok_or("no picture")?)?;
        std::fs::write(Path::new(&directory).join(name), picture)?;
        Ok(())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Ends the browser, which would outlive its driver. By hand, because nothing here may wait as a future does.
        let session = self.session.trim_start_matches("http://");
        if let Some((address, path)) = session.split_once('/')
            && let Ok(mut driver) = TcpStream::connect(address)
        {
            let request =
                format!("DELETE /{path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
            let _ = driver.write_all(request.as_bytes());
            // It keeps the connection open all the same; the answer's beginning says that the browser has ended.
            let _ = driver.read(&mut [0; 64]);
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// The port that the driver has chosen.
fn port(driver: &mut Child) -> Result<u16> {
    let stdout = driver.stdout.take().ok_or("the driver has no output")?;
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        if let Some((_, port)) = line.split_once("started successfully on port ") {
            return Ok(port.trim_end_matches('.').parse()?);
        }
    }
    Err("the driver ended".into())
}
