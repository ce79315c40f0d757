//! The wall clock of a real process, which a test steps; its other clocks run on.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use super::TempDir;

/// A clock for `doorward`, by libfaketime (Debian's `faketime`); several processes may share it.
#[derive(Clone)]
pub struct Clock(Arc<TempDir>);

impl Clock {
    /// `offset` is from the machine's time: `+0`, `+20m`, `-1h`, `+1.5s`.
    pub fn at(offset: &str) -> Self {
        let clock = Self(Arc::new(TempDir::new()));
        clock.step(offset);
        clock
    }

    /// From now on the time is the machine's and this offset.
    pub fn step(&self, offset: &str) {
        // Renamed into place: a process that reads the clock meanwhile sees one offset or the other.
        let (new, file) = (self.0.path().join("new"), self.file());
        std::fs::write(&new, format!("{offset}\n")).unwrap();
        std::fs::rename(new, file).unwrap();
    }

    /// The binary under this clock.
    pub fn doorward(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_doorward"));
        command
            .env("LD_PRELOAD", libfaketime())
            .env("FAKETIME_TIMESTAMP_FILE", self.file())
            .envs([("FAKETIME_NO_CACHE", "1"), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")]);
        command
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("offset")
    }
}

fn libfaketime() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib").unwrap().map(|entry| entry.unwrap().path());
    let found = folders.map(|folder| folder.join("faketime/libfaketime.so.1")).find(|file| file.exists());
    found.expect("libfaketime is missing: apt-get install faketime")
}

/// A clock for `redis-server`: its event loop would stand still under libfaketime.
pub struct RedisClock {
    dir: TempDir,
    offset: File,
}

impl RedisClock {
    pub fn new() -> Self {
        let dir = TempDir::new();
        let (source, library) = (dir.path().join("clock.c"), dir.path().join("clock.so"));
        std::fs::write(&source, SHIM).unwrap();
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).stdin(Stdio::null());
        assert!(cc.status().unwrap().success(), "cc compiles the clock");
        let clock = Self { offset: File::create(dir.path().join("offset")).unwrap(), dir };
        clock.step("+0");
        clock
    }

    /// As [`Clock::step`].
    pub fn step(&self, offset: &str) {
        let (sign, span) = offset.split_at_checked(1).unwrap();
        let span = if span == "0" { 0 } else { humantime::parse_duration(span).unwrap().as_micros() };
        let micros = i64::try_from(span).unwrap() * if sign == "-" { -1 } else { 1 };
        self.offset.write_all_at(&micros.to_ne_bytes(), 0).unwrap();
    }

    /// The server under this clock.
    pub fn redis(&self) -> Command {
        let mut command = Command::new("redis-server");
        let file = |name| self.dir.path().join(name);
        command.env("LD_PRELOAD", file("clock.so")).env("CLOCK_OFFSET", file("offset"));
        command
    }
}

/// Redis asks `gettimeofday` for the time of `TIME`, of ids and of expiry. The offset is in memory that is shared with
/// the file, since this is asked for each command.
const SHIM: &str = r#"
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

static volatile int64_t *offset;

__attribute__((constructor)) static void begin(void) {
  int file = open(getenv("CLOCK_OFFSET"), O_RDONLY);
  offset = mmap(0, sizeof *offset, PROT_READ, MAP_SHARED, file, 0);
  if (file < 0 || offset == MAP_FAILED) abort();
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  struct timespec real;
  clock_gettime(CLOCK_REALTIME, &real);
  int64_t micros = (int64_t)real.tv_sec * 1000000 + real.tv_nsec / 1000 + (offset ? *offset : 0);
  now->tv_sec = micros / 1000000;
  now->tv_usec = micros % 1000000;
  return 0;
}
"#;
