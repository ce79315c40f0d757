//! The first command of the README, `envoy/demo.sh`, and the page that it serves, in a real Chromium.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, mpsc};
use std::time::{Duration, Instant};

use super::support;
use crate::lint::lint;
use crate::support::browser::Browser;
use crate::support::doorward::run_with;
use crate::support::{TempDir, envoy};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const VARIANTS: [&[&str]; 2] = [&[], &["--sidecars"]];

/// With `--sidecars` eleven programs start, on a machine that is busy with other tests.
const START: Duration = Duration::from_secs(120);

/// Two demos that start at the same time would wish for the same port.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// `envoy/demo.sh` on the binaries that are tested; `None` without Envoy. All that it makes is in `dir`.
fn demo(dir: &TempDir, services: &Path) -> Option<Command> {
    // A shell cannot trap an interrupt that was ignored when it started, as it is for jobs in the background.
    let mut command = Command::new("env");
    command
        .arg("--default-signal=INT")
        .arg(format!("{ROOT}/envoy/demo.sh"))
        .env("ENVOY", envoy::binary()?)
        .env("DOORWARD", env!("CARGO_BIN_EXE_doorward"))
        .env("DOORWARD_MODULE", crate::module::library())
        .env("FOUR_SERVICES", services)
        .env("TMPDIR", dir.path())
        .env("DOORWARD_DEMO_PATIENT", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    Some(command)
}

/// A demo that stays up.
struct Demo {
    script: Child,
    url: String,
    dir: TempDir,
}

impl Demo {
    fn start(args: &[&str]) -> Option<Self> {
        let dir = TempDir::new();
        let script = demo(&dir, support::binary())?.args(args).spawn().unwrap();
        let mut demo = Self { script, url: String::new(), dir };
        // Read to the end, or the script would fail to write the rest.
        let (stdout, mut stderr) = (demo.script.stdout.take().unwrap(), demo.script.stderr.take().unwrap());
        let (lines, heard) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = lines.send(line);
            }
        });
        let (began, mut said) = (Instant::now(), String::new());
        while let Ok(line) = heard.recv_timeout(START.saturating_sub(began.elapsed())) {
            said.push_str(&line);
            said.push('\n');
            if let Some(url) = line.trim().strip_prefix("In a browser: ") {
                url.clone_into(&mut demo.url);
            }
            if line.starts_with("It stays up") {
                assert!(said.contains("all 13 answers were the expected ones"), "{said}");
                return Some(demo);
            }
        }
        demo.signal("TERM");
        let mut complaint = String::new();
        stderr.read_to_string(&mut complaint).unwrap();
        panic!("it does not stay up: {said}{complaint}");
    }

    /// Ends it as Ctrl-C does; no process may be left.
    fn stop(mut self) {
        self.signal("INT");
        assert_eq!(self.script.wait().unwrap().code(), Some(0));
        nothing_is_left(&self.dir, self.script.id());
    }

    fn signal(&self, signal: &str) {
        Command::new("kill").arg(format!("-{signal}")).arg(self.script.id().to_string()).status().unwrap();
    }
}

impl Drop for Demo {
    /// `four-services` ends the processes that it started.
    fn drop(&mut self) {
        if matches!(self.script.try_wait(), Ok(None)) {
            self.signal("TERM");
            let _ = self.script.wait();
        }
    }
}

#[track_caller]
fn nothing_is_left(dir: &TempDir, group: u32) {
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "its folder is gone");
    let began = Instant::now();
    while Command::new("kill").args(["-0", "--", &format!("-{group}")]).output().unwrap().status.success() {
        assert!(began.elapsed() < Duration::from_secs(10), "its processes are gone");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Runs it to its end.
fn once(args: &[&str], services: &Path) -> Option<Output> {
    let dir = TempDir::new();
    let script = demo(&dir, services)?.arg("--once").args(args).spawn().unwrap();
    let group = script.id();
    let output = script.wait_with_output().unwrap();
    nothing_is_left(&dir, group);
    Some(output)
}

#[test]
fn the_demo_has_the_described_output_and_leaves_nothing() {
    let _alone = alone();
    for args in [&VARIANTS[..], &[&["--module"]]].concat() {
        let Some(output) = once(args, support::binary()) else { return };
        let said = String::from_utf8(output.stdout).unwrap();
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && complaint.is_empty(), "{args:?}: {said}{complaint}");
        assert!(said.contains("all 13 answers were the expected ones"), "{said}");
    }
}

#[test]
fn the_demo_fails_when_an_answer_is_not_the_expected_one() {
    use std::os::unix::fs::PermissionsExt;
    let dir = TempDir::new();
    // A service that is not who it should be.
    let services = dir.path().join("four-services");
    let script = format!(
        "#!/bin/sh\nif [ \"$3\" = B ]; then shift 3; set -- service --name Mallory \"$@\"; fi\nexec {} \"$@\"\n",
        support::binary().display()
    );
    std::fs::write(&services, script).unwrap();
    std::fs::set_permissions(&services, std::fs::Permissions::from_mode(0o755)).unwrap();
    let _alone = alone();
    let Some(output) = once(&[], &services) else { return };
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("got       200, Mallory saw GET /b/orders") && said.contains("1 of 13 answers"), "{said}");
}

#[test]
fn its_configurations_are_valid_and_fit_each_other() {
    let file = |name: &str| format!("{ROOT}/examples/four-services/{name}");
    let (gateway, sidecar) = (file("doorward.yaml"), file("sidecar.yaml"));
    let sha256 = ("DOORWARD__ADMIN__KEYS__0__SHA256", "0d".repeat(32));
    let shared = ("DOORWARD__REVOCATION__STORE", "redis");
    for env in [&[(sha256.0, sha256.1.as_str())][..], &[(sha256.0, &sha256.1), shared]] {
        let (code, _, error) = run_with(env, &["validate", "--config", &gateway], "");
        assert_eq!(code, 0, "{error}");
    }
    // The file's comments ask readers who copy it to create their own key.
    let (code, _, error) = run_with(&[], &["validate", "--config", &gateway], "");
    assert!(code == 2 && error.contains("admin.keys[0].sha256") && error.contains("1 fault"), "{error}");
    for envoy in [file("envoy/gateway.yaml"), format!("{ROOT}/envoy/sidecar-uds.yaml")] {
        let (_, findings) = lint(&[&envoy, "--config", &sidecar], "");
        assert!(findings.is_empty(), "{envoy}: {findings:#?}");
    }
}

/// With DOORWARD_PICTURE=FILE and DOORWARD_RECORDING=FILE the first also takes the picture and the recording that the
/// README shows.
#[test]
fn the_page_shows_a_stolen_token_being_refused() {
    let Some(browser) = Browser::find() else { return };
    let _alone = alone();
    let taken = ["DOORWARD_PICTURE", "DOORWARD_RECORDING"].map(|name| std::env::var(name).ok());
    for (args, taken) in VARIANTS.into_iter().zip([taken.each_ref().map(Option::as_deref), [None; 2]]) {
        let Some(demo) = Demo::start(args) else { return };
        let script = format!("{ROOT}/tests/four_services/page.mjs");
        let told = [demo.url.as_str(), args.first().copied().unwrap_or_default()].into_iter().map(Some).chain(taken);
        browser.run(&script, &told.map_while(|word| word).collect::<Vec<_>>());
        demo.stop();
    }
}
