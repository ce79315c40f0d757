//! Machines that are network namespaces, with cables between them and switches to plug them into.
//!
//! The network has no name and no address in the namespace of the tests, and does not outlive them: a namespace ends
//! with its last process and the last open file on it.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::process::{Command, Output};
use std::sync::mpsc;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// One network stack. Its processes share the files and the clock of this machine.
pub(super) struct Machine {
    namespace: File,
}

impl Machine {
    /// A machine with only a loopback interface; the error is the reason if this system does not allow one.
    pub(super) fn new() -> Result<Self, String> {
        let name = format!("doorward-test-{}-{:016x}", std::process::id(), rand::random::<u64>());
        succeeded(Command::new("ip").args(["netns", "add", &name]).output())?;
        let namespace = File::open(format!("/run/netns/{name}"));
        // The open file keeps it; without a name it cannot be left behind.
        succeeded(Command::new("ip").args(["netns", "delete", &name]).output())?;
        let machine = Self { namespace: namespace.map_err(|error| error.to_string())? };
        machine.try_ip("link set dev lo up")?;
        Ok(machine)
    }

    /// Does something on a thread of this machine: its sockets are here, and so are those of the threads
    /// and processes that it starts.
    pub(super) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let work = || {
            self.enter();
            work()
        };
        let done = std::thread::scope(|scope| scope.spawn(work).join());
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// As [`Self::inside`], for asynchronous work.
    pub(super) fn run<T: Send>(&self, work: impl AsyncFnOnce() -> T + Send) -> T {
        self.inside(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(work())
        })
    }

    /// As [`Self::run`], on a thread that stays until the returned value is dropped: an Envoy ends with the
    /// thread that started it (it asks for that by `PR_SET_PDEATHSIG`).
    pub(super) fn settle<T: Send + 'static>(&self, work: impl AsyncFnOnce() -> T + Send + 'static) -> (T, Settled) {
        let machine = Self { namespace: self.namespace.try_clone().unwrap() };
        let ((done, result), (stay, left)) = (mpsc::channel(), mpsc::channel::<()>());
        std::thread::spawn(move || {
            machine.enter();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let _ = done.send(runtime.block_on(work()));
            let _ = left.recv();
        });
        (result.recv().expect("what is started starts"), Settled { _stay: stay })
    }

    /// The calling thread is on this machine from now on.
    fn enter(&self) {
        move_into_link_name_space(self.namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
    }

    #[track_caller]
    pub(super) fn ip(&self, arguments: &str) {
        self.try_ip(arguments).unwrap_or_else(|error| panic!("ip {arguments}: {error}"));
    }

    fn try_ip(&self, arguments: &str) -> Result<(), String> {
        self.inside(|| succeeded(Command::new("ip").args(arguments.split(' ')).output()))
    }

    /// Lays a cable to another machine; both ends are up, and have no address.
    pub(super) fn cable(&self, here: &str, other: &Self, there: &str) -> Result<(), String> {
        let namespace = format!("/proc/{}/fd/{}", std::process::id(), other.namespace.as_raw_fd());
        self.try_ip(&format!("link add name {here} type veth peer name {there} netns {namespace}"))?;
        self.ip(&format!("link set dev {here} up"));
        other.ip(&format!("link set dev {there} up"));
        Ok(())
    }

    /// `address` such as `10.0.0.1/24`: only this network is reachable.
    pub(super) fn address(&self, interface: &str, address: &str) {
        self.ip(&format!("address add {address} dev {interface}"));
    }
}

/// Processes of [`Machine::settle`] may remain.
pub(super) struct Settled {
    _stay: mpsc::Sender<()>,
}

/// Machines plugged into it reach each other. Each has a port named as the machine is.
pub(super) struct Switch(Machine);

impl Switch {
    pub(super) fn new() -> Result<Self, String> {
        let machine = Machine::new()?;
        machine.try_ip("link add name switch type bridge")?;
        machine.ip("link set dev switch up");
        Ok(Self(machine))
    }

    pub(super) fn plug(&self, port: &str, machine: &Machine, interface: &str, address: &str) -> Result<(), String> {
        self.0.cable(port, machine, interface)?;
        machine.address(interface, address);
        self.forward(port);
        Ok(())
    }

    pub(super) fn forward(&self, port: &str) {
        self.0.ip(&format!("link set dev {port} master switch"));
    }

    /// Drops everything that comes through this port, in both directions: the machine sees a link that is up, and gets
    /// no answer.
    pub(super) fn swallow(&self, port: &str) {
        self.0.ip(&format!("link set dev {port} nomaster"));
    }
}

fn succeeded(output: std::io::Result<Output>) -> Result<(), String> {
    let output = output.map_err(|error| format!("ip: {error}"))?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()) }
}
