//! The states of the model: one store, its spare copy, the instances, and the promises.
//!
//! Time is in ticks and relative: every age saturates one past `max_staleness`, where nothing
//! depends on it any more, so runs of any length fold into finitely many states.

/// Room for instances; a protocol uses two or three.
pub const INSTANCES: usize = 3;
/// Tokens that are revoked.
pub const TOKENS: usize = 2;
const LOG: usize = 6;

/// A set of tokens.
pub type Tokens = u8;

#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct World {
    pub store: Store,
    /// The replica that a failover promotes, or the copy on disk that a restart loads.
    pub spare: Store,
    /// A former primary, cut off from the others and still answering.
    pub isolated: Option<Store>,
    pub instances: [Instance; INSTANCES],
    pub promises: [Promise; TOKENS],
    /// The newest id that any server gave out; the newest epoch that was founded.
    pub newest: (u8, u8),
    pub left: Left,
}

/// The remaining faults.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Left {
    pub writes: u8,
    /// Cuts, pauses and broken connections.
    pub faults: u8,
    pub restarts: u8,
    pub losses: u8,
    /// Changes of an instance's `max_staleness`.
    pub reloads: u8,
}

#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Store {
    /// 0: no epoch, because the store was emptied.
    pub epoch: u8,
    pub log: [Option<Entry>; LOG],
    pub last: u8,
    /// Entries ever added.
    pub added: u8,
    pub leases: [Option<Lease>; INSTANCES],
    /// Ticks since the epoch was founded.
    pub founded: u8,
    /// Ticks since this server began to be the primary with this content.
    pub since: u8,
    /// Ticks since its wall clock was set, by which leases end.
    pub even: u8,
    /// A server that is not reports it.
    pub is_primary: bool,
    /// The server refuses writes, but leases continue.
    pub is_full: bool,
}

#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Entry {
    pub id: u8,
    pub token: u8,
}

/// An instance's report in the store, which expires there.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Lease {
    pub age: u8,
    /// The last id that the instance has applied.
    pub applied: u8,
    /// The length of the lease, which ends at the tick after it.
    pub hold: u8,
}

#[expect(clippy::struct_excessive_bools, reason = "each holds or not whatever the others do")]
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Instance {
    pub life: Life,
    /// Its rules allow a view to be older than those of others do.
    pub patient: bool,
    /// Ticks for which its lease runs, the present one among them; not counted if all leases are alike.
    pub leased: u8,
    /// Reaches the store.
    pub linked: bool,
    /// Still talks to the isolated former primary.
    pub misled: bool,
    pub view: Tokens,
    /// Everything that it has refused.
    pub refused: Tokens,
    /// Entries that the view lacked at some moment of this tick; kept only if a bug makes it matter.
    pub missed: Tokens,
    /// Ticks since `fresh_as_of`.
    pub age: u8,
    pub base: Option<Base>,
    /// The whole gap rule was applied on this connection.
    pub checked: bool,
    pub settled: bool,
    /// A loss that was noticed and is not repaired yet; the entries of the log that were seen since.
    pub loss: Option<Tokens>,
    /// Written by this process with a 2xx, and not yet read back.
    pub own: Tokens,
    /// The store lost something, and no read was completed since.
    pub unaware: bool,
    pub read: Option<Read>,
    /// The reply of a connection that was given up, still on its way.
    pub late: Option<Read>,
}

#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Life {
    Absent,
    Running,
    /// SIGSTOP: nothing is decided, time passes.
    Paused,
}

/// The log as far as the view has it (`replica/gap.rs`).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Base {
    pub epoch: u8,
    pub last: u8,
    pub added: u8,
}

#[expect(clippy::struct_excessive_bools, reason = "each holds or not whatever the others do")]
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Read {
    pub kind: Kind,
    pub phase: Phase,
    /// Ticks since it was sent.
    pub age: u8,
    pub tokens: Tokens,
    pub count: u8,
    pub complete: bool,
    pub epoch: u8,
    /// The last id of the page, or of the log.
    pub last: u8,
    pub added: u8,
    pub settled: bool,
    /// The write was executed after the loss.
    pub after_loss: bool,
    /// Read from a server that reported afterwards that it is the primary.
    pub by_primary: bool,
    /// The lease was there before it.
    pub leased: bool,
    /// The hold of that lease.
    pub hold: u8,
    /// The awaited entries when it was sent.
    pub own: Tokens,
}

#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Kind {
    /// The log from its start.
    Replay,
    /// New entries, the epoch and the state of the log, in one step (`Feed::snapshot`).
    Check,
    /// New entries, then the epoch (`Feed::next`).
    Next,
}

#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Phase {
    Sent,
    /// The log was read, the epoch not yet.
    HalfServed,
    Served,
    HalfTaken,
}

/// The answers to callers about a token.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Promise {
    None,
    /// 2xx: it is written.
    Written {
        /// Ticks since the store wrote it.
        age: u8,
        epoch: u8,
        id: u8,
        /// The instance that waits for the receipt.
        by: Option<u8>,
        confirmed: bool,
    },
    /// The retention is over.
    Over,
}

impl Store {
    pub fn new() -> Self {
        Self {
            epoch: 0,
            log: [None; LOG],
            last: 0,
            added: 0,
            leases: [None; INSTANCES],
            founded: 0,
            since: 0,
            even: 0,
            is_primary: true,
            is_full: false,
        }
    }

    pub fn tokens(&self) -> Tokens {
        self.log.iter().flatten().fold(0, |tokens, entry| tokens | 1 << entry.token)
    }

    pub fn takes_no_more(&self) -> bool {
        self.is_full || !self.is_primary || self.log.iter().all(Option::is_some)
    }

    pub fn add(&mut self, id: u8, token: u8) {
        let free = self.log.iter_mut().find(|entry| entry.is_none()).expect("room in the log");
        *free = Some(Entry { id, token });
        self.last = id;
        self.added += 1;
    }

    pub fn trim_head(&mut self) {
        self.log.rotate_left(1);
        self.log[LOG - 1] = None;
    }
}

impl Instance {
    pub fn absent() -> Self {
        Self {
            life: Life::Absent,
            patient: false,
            leased: 0,
            linked: true,
            misled: false,
            view: 0,
            refused: 0,
            missed: 0,
            age: u8::MAX,
            base: None,
            checked: false,
            settled: false,
            loss: None,
            own: 0,
            unaware: false,
            read: None,
            late: None,
        }
    }

    /// A process that just began.
    pub fn started(stale: u8) -> Self {
        Self { life: Life::Running, age: stale, ..Self::absent() }
    }

    pub fn knows(&self, token: u8) -> bool {
        self.view & 1 << token != 0
    }

    /// The connection is closed, with everything in flight; the next one may reach a store that no
    /// instance has repaired yet.
    pub fn hang_up(&mut self) {
        self.read = None;
        self.checked = false;
        self.settled = false;
    }
}

impl Instance {
    pub fn is_connected(&self) -> bool {
        self.life == Life::Running && self.linked && !self.misled
    }
}

impl World {
    /// Instances differ only in their place: worlds that differ only in it are one.
    pub fn sort(&mut self) {
        for at in [0, 1, 0] {
            if self.instances[at] < self.instances[at + 1] {
                self.instances.swap(at, at + 1);
                for store in [&mut self.store, &mut self.spare].into_iter().chain(&mut self.isolated) {
                    store.leases.swap(at, at + 1);
                }
                for promise in &mut self.promises {
                    if let Promise::Written { by: Some(by), .. } = promise {
                        let (left, right) = if at == 0 { (0, 1) } else { (1, 2) };
                        *by = match *by {
                            by if by == left => right,
                            by if by == right => left,
                            by => by,
                        };
                    }
                }
            }
        }
    }

    pub fn at(&mut self, instance: u8) -> &mut Instance {
        &mut self.instances[usize::from(instance)]
    }

    pub fn running(&mut self, instance: u8) -> Option<&mut Instance> {
        Some(self.at(instance)).filter(|instance| instance.life == Life::Running)
    }

    /// Running, and reaching a server.
    pub fn linked(&mut self, instance: u8) -> Option<&mut Instance> {
        self.running(instance).filter(|instance| instance.linked)
    }

    /// The server that this instance takes for the primary.
    pub fn server(&mut self, instance: u8) -> &mut Store {
        if self.at(instance).misled
            && let Some(isolated) = &mut self.isolated
        {
            return isolated;
        }
        &mut self.store
    }
}

impl Base {
    pub fn advance(&mut self, read: &Read) {
        self.last = self.last.max(read.last);
        self.added += read.count;
    }
}
