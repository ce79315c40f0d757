//! Real nginx in front of an upstream, asking Doorward by auth_request.

use std::net::SocketAddr;
use std::process::{Command, Stdio};

use super::{Process, TempDir, eventually};

pub struct Nginx {
    _process: Process,
    pub address: SocketAddr,
    _dir: TempDir,
}

/// The binary, which Debian keeps off the path of most users; prints a message if the test is
/// skipped.
pub fn binary() -> Option<&'static str> {
    let runs = |binary: &&str| {
        Command::new(binary).arg("-v").stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    let binary = ["nginx", "/usr/sbin/nginx"].into_iter().find(runs);
    if binary.is_none() {
        eprintln!("SKIPPED: nginx is not installed; ./tests/run.sh installs it");
    }
    binary
}

impl Nginx {
    /// Starts nginx with this content of `server { … }`.
    pub async fn start(binary: &str, server: &str) -> Self {
        Self::listening(binary, "", "", server).await
    }

    /// As [`Self::start`], with more in `http { … }`, in which `DIR` is a folder.
    pub async fn start_with(binary: &str, http: &str, server: &str) -> Self {
        Self::listening(binary, "", http, server).await
    }

    /// As [`Self::start`], over TLS with this certificate and key, both PEM.
    pub async fn start_tls(binary: &str, (certificate, key): &(String, String), server: &str) -> Self {
        let dir = TempDir::new();
        let [cert_file, key_file] = ["cert.pem", "key.pem"].map(|name| dir.path().join(name));
        std::fs::write(&cert_file, certificate).unwrap();
        std::fs::write(&key_file, key).unwrap();
        let files = format!("ssl_certificate {}; ssl_certificate_key {};", cert_file.display(), key_file.display());
        // The files are read before it listens.
        Self::listening(binary, " ssl", "", &format!("{files}\n{server}")).await
    }

    async fn listening(binary: &str, how: &str, http: &str, server: &str) -> Self {
        let dir = TempDir::new();
        // nginx accepts no open socket and does not report its port.
        let port = crate::ledger::support::free_port();
        let path = dir.path().display();
        let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("  {kind}_temp_path {path}/{kind};\n"))
            .concat();
        let http = http.replace("DIR", &path.to_string());
        let config = format!(
            "pid {path}/pid;\nerror_log {path}/error.log;\nevents {{}}\nhttp {{\n  access_log off;\n{temp}{http}  server {{\n    listen 127.0.0.1:{port}{how};\n{server}\n  }}\n}}\n"
        );
        let file = dir.path().join("nginx.conf");
        std::fs::write(&file, config).unwrap();
        let child = Command::new(binary)
            .arg("-p")
            .arg(dir.path())
            .arg("-c")
            .arg(&file)
            .args(["-g", "daemon off; master_process off;"]) // Its workers would outlive a master that is killed.
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let process = Process(child);
        eventually("nginx listens", || async { tokio::net::TcpStream::connect(address).await.is_ok() }).await;
        Self { _process: process, address, _dir: dir }
    }
}
