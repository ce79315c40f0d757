//! Real Envoy on the files that we ship, with the addresses replaced.

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{PATIENCE, Process, TempDir};

pub struct Envoy {
    process: Process,
    pub address: SocketAddr,
    pub admin: SocketAddr,
    pub dir: TempDir,
}

/// The binary that `tests/run.sh` fetched; `None` if the test is skipped, with a message.
pub fn binary() -> Option<String> {
    let binary = std::env::var("ENVOY").ok().filter(|path| !path.is_empty());
    if binary.is_none() {
        eprintln!("SKIPPED: ENVOY does not name an Envoy binary; ./tests/run.sh fetches one");
    }
    binary
}

/// With timeouts for Doorward that it keeps on a busy machine, too: those of the samples are for a service.
pub fn patient(text: &str) -> String {
    text.replace("\n                        timeout: 1s\n", "\n                        timeout: 10s\n")
        .replace("message_timeout: 1s", "message_timeout: 10s")
        .replace("{interval: 5s, timeout: 1s}", "{interval: 5s, timeout: 5s}")
}

/// A file of the repository (by its path from the root) with its well-known addresses replaced.
pub fn text(file: &str, check: &str, upstream: SocketAddr) -> String {
    let text = std::fs::read_to_string(format!("{}/{file}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let text = if file.starts_with("envoy/") { patient(&text) } else { text }; // `tests/lint` is about such values.
    let text = text
        .replace("port_value: 10000", "port_value: 0")
        .replace("port_value: 9901", "port_value: 0")
        .replace("port_value: 8080", &format!("port_value: {}", upstream.port()));
    if let Some(socket) = check.strip_prefix("unix:") {
        return text.replace("/run/doorward/check.sock", socket);
    }
    let port = check.rsplit_once(':').unwrap().1;
    text.replace("port_value: 9191", &format!("port_value: {port}"))
}

/// The newest and the oldest Envoy that the examples promise to run on.
pub fn binaries() -> Vec<String> {
    let oldest = std::env::var("ENVOY_OLDEST").ok().filter(|path| !path.is_empty());
    binary().into_iter().chain(oldest).collect()
}

impl Envoy {
    /// Starts Envoy on one of the files in `envoy/`, in front of `upstream` and beside `check`.
    pub async fn start(binary: &str, file: &str, check: &str, upstream: SocketAddr) -> Self {
        Self::start_text(binary, &text(&format!("envoy/{file}"), check, upstream)).await
    }

    /// Starts Envoy on a configuration whose admin listener has port 0.
    pub async fn start_text(binary: &str, text: &str) -> Self {
        Self::start_by(Command::new(binary), text).await
    }

    /// As [`Self::start_text`]; `command` becomes Envoy with the arguments that are added, one worker unless it names
    /// more.
    pub async fn start_by(mut command: Command, text: &str) -> Self {
        let dir = TempDir::new();
        let (file, admin_file, log) =
            (dir.path().join("envoy.yaml"), dir.path().join("admin"), dir.path().join("envoy.log"));
        // With SO_REUSEPORT, which is Envoy's default, two tests can be given the same free port.
        let own_port = |line: &str| {
            let indent = line.strip_suffix("filter_chains:").filter(|indent| indent.trim().is_empty());
            indent.map_or_else(|| line.to_owned(), |indent| format!("{indent}enable_reuse_port: false\n{line}"))
        };
        let text: Vec<_> = text.lines().map(own_port).collect();
        std::fs::write(&file, text.join("\n")).unwrap();
        let output = std::fs::File::create(&log).unwrap();
        if command.get_args().all(|argument| argument != "--concurrency") {
            command.args(["--concurrency", "1"]);
        }
        let child = command
            .args(["--use-dynamic-base-id", "--log-level", "warn", "-c"])
            .arg(&file)
            .arg("--admin-address-path")
            .arg(&admin_file)
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        let process = Process(child);
        let started = Instant::now();
        loop {
            let said = || std::fs::read_to_string(&log).unwrap_or_default();
            assert!(started.elapsed() < PATIENCE, "Envoy does not start:\n{}", said());
            tokio::time::sleep(Duration::from_millis(20)).await;
            let Some(admin) =
                std::fs::read_to_string(&admin_file).ok().and_then(|text| text.trim().parse::<SocketAddr>().ok())
            else {
                continue;
            };
            let Ok(response) = reqwest::get(format!("http://{admin}/ready")).await else { continue };
            if response.status() != 200 {
                continue;
            }
            let listeners: Value =
                reqwest::get(format!("http://{admin}/listeners?format=json")).await.unwrap().json().await.unwrap();
            let Some(port) =
                listeners["listener_statuses"][0]["local_address"]["socket_address"]["port_value"].as_u64()
            else {
                continue;
            };
            let address = SocketAddr::from(([127, 0, 0, 1], u16::try_from(port).unwrap()));
            return Self { process, address, admin, dir };
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    pub fn id(&self) -> u32 {
        self.process.0.id()
    }

    /// Waits for its end; `None` as exit code: a signal ended it.
    pub async fn ended(&mut self) -> Option<i32> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.process.0.try_wait().unwrap() {
                return status.code();
            }
            assert!(started.elapsed() < PATIENCE, "Envoy does not end:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Its output, including the access log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("envoy.log")).unwrap_or_default()
    }

    /// The answer of its admin page.
    pub async fn ask_admin(&self, path: &str) -> String {
        reqwest::get(format!("http://{}{path}", self.admin)).await.unwrap().text().await.unwrap()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}
