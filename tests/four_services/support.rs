//! The programs of the example, built once and started on free ports; and a PostgreSQL of the test's own.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use crate::support::{PATIENCE, Process, TempDir};

/// `four-services`: what FOUR_SERVICES names, else built here; cargo does nothing when it is up to date.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(named) = std::env::var_os("FOUR_SERVICES").filter(|path| !path.is_empty()) {
            return named.into();
        }
        // Beside the doorward that is tested, and as fast when something is measured; without LTO that takes a
        // fraction of the time.
        let (profile, folder) = if cfg!(debug_assertions) { ("dev", "debug") } else { ("bench", "release") };
        let target = Path::new(env!("CARGO_BIN_EXE_doorward")).parent().and_then(Path::parent).unwrap();
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
        let status = Command::new(cargo)
            .args(["build", "--quiet", "--locked", "-p", "four-services", "--profile", profile, "--target-dir"])
            .arg(target)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()
            .unwrap();
        assert!(status.success(), "cargo build -p four-services");
        target.join(folder).join("four-services")
    })
}

/// A running `four-services`.
pub struct Program {
    pub process: Process,
    pub address: SocketAddr,
    pub log: Arc<Mutex<Vec<String>>>,
}

impl Program {
    /// Starts it and waits for its `listening` line; `args` as on a command line, without `--listen` for any
    /// port.
    pub async fn start(args: &[&str]) -> Self {
        let binary = tokio::task::spawn_blocking(binary).await.unwrap();
        let listen: &[&str] = if args.contains(&"--listen") { &[] } else { &["--listen", "127.0.0.1:0"] };
        let mut child = Command::new(binary)
            .args(args)
            .args(listen)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let (process, log) = (Process(child), Arc::new(Mutex::new(Vec::new())));
        let lines = log.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                lines.lock().unwrap().push(line);
            }
        });
        let (said, mut listening) = tokio::sync::mpsc::channel(1);
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = said.blocking_send(line);
            }
        });
        let line = tokio::time::timeout(PATIENCE, listening.recv()).await.ok().flatten();
        let address = line.as_deref().and_then(|line| line.strip_prefix("listening on "));
        let Some(address) = address else { panic!("{args:?} says {line:?}:\n{}", log.lock().unwrap().join("\n")) };
        Self { process, address: address.parse().unwrap(), log }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

/// Runs it to its end: whether it succeeded, and its standard error.
pub async fn run(args: &[&str]) -> (bool, String) {
    let mut command = Command::new(tokio::task::spawn_blocking(binary).await.unwrap());
    let output = command.args(args).stdin(Stdio::null()).output().unwrap();
    (output.status.success(), String::from_utf8(output.stderr).unwrap())
}

/// A PostgreSQL cluster in its own folder, reachable only over a Unix socket there.
pub struct Postgres {
    process: Process,
    pub url: String,
    dir: TempDir,
}

impl Postgres {
    /// `None` if the test is skipped, with a message.
    pub async fn start() -> Option<Self> {
        let Some(bin) = postgres_binaries() else {
            eprintln!("SKIPPED: no PostgreSQL server is installed; ./tests/run.sh installs Debian's");
            return None;
        };
        let dir = TempDir::new();
        let (data, log) = (dir.path().join("data"), dir.path().join("log"));
        // `four-services` refuses to run as root; root runs it as a user who owns only this folder.
        let mut as_nobody: Vec<&str> = Vec::new();
        if root() {
            let owned = Command::new("chown").arg("nobody:nogroup").arg(dir.path()).status().unwrap();
            assert!(owned.success());
            as_nobody.extend(["setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups"]);
        }
        let command = |program: &str| {
            let path = bin.join(program);
            let mut command = match as_nobody.split_first() {
                Some((first, rest)) => {
                    let mut command = Command::new(first);
                    command.args(rest).arg(path);
                    command
                }
                None => Command::new(path),
            };
            command.stdin(Stdio::null()).current_dir(dir.path()).env("LC_ALL", "C");
            command
        };
        let mut initdb = command("initdb");
        initdb.args(["--username=accounts", "--auth=trust", "--encoding=UTF8", "--no-sync", "--pgdata"]).arg(&data);
        let made = tokio::task::spawn_blocking(move || initdb.output()).await.unwrap();
        let said = match made {
            Ok(output) if output.status.success() => None,
            Ok(output) => Some(String::from_utf8_lossy(&output.stderr).into_owned()),
            Err(error) => Some(error.to_string()),
        };
        if let Some(said) = said {
            eprintln!("SKIPPED: initdb makes no cluster here: {said}");
            return None;
        }
        let output = std::fs::File::create(&log).unwrap();
        let mut postgres = command("postgres");
        postgres.args(["-c", "listen_addresses=", "-c", "fsync=off", "-k"]).arg(dir.path()).arg("-D").arg(&data);
        let process = Process(postgres.stdout(output.try_clone().unwrap()).stderr(output).spawn().unwrap());
        let began = Instant::now();
        while !command("pg_isready").args(["--quiet", "--host"]).arg(dir.path()).status().unwrap().success() {
            let said = || std::fs::read_to_string(&log).unwrap_or_default();
            assert!(began.elapsed() < PATIENCE, "PostgreSQL does not start:\n{}", said());
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        let url = format!("postgres:///postgres?host={}&user=accounts", dir.path().display());
        Some(Self { process, url, dir })
    }

    /// The output of one statement.
    pub fn sql(&self, statement: &str) -> String {
        let psql = postgres_binaries().unwrap().join("psql");
        let output = Command::new(psql)
            .args(["--no-psqlrc", "--tuples-only", "--no-align", "--username=accounts", "--dbname=postgres", "--host"])
            .arg(self.dir.path())
            .args(["--command", statement])
            .output()
            .unwrap();
        assert!(output.status.success(), "{statement}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Postgres {
    /// A fast shutdown, so that it leaves no shared memory behind.
    fn drop(&mut self) {
        let _ = Command::new("kill").arg("-INT").arg(self.process.0.id().to_string()).status();
        let began = Instant::now();
        while self.process.0.try_wait().is_ok_and(|ended| ended.is_none()) && began.elapsed() < PATIENCE {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

/// Where the newest server's programs are: Debian does not put them into PATH.
fn postgres_binaries() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?.filter_map(Result::ok);
    let version = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    let newest = versions.map(|entry| entry.path()).max_by_key(|path| version(path))?;
    Some(newest.join("bin")).filter(|bin| bin.join("initdb").exists() && bin.join("postgres").exists())
}

fn root() -> bool {
    let output = Command::new("id").arg("-u").output().unwrap();
    output.stdout == b"0\n"
}
