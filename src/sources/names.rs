//! The meaning of issuer names.
//!
//! A revocation is kept under the name of an issuer and the value of a claim of its tokens. An `iss` that was accepted
//! under a name while revocations under it may live must be accepted by an issuer that keeps the name (as its `name` or
//! in `formerly`), with the same claims, or by no issuer: otherwise revoked tokens are silently accepted again. The
//! store keeps notes of the meaning of the names, and so does the process; a configuration is compared with all of
//! these notes, not with the last alone, so that a change in several steps is judged like the same change in one.

mod mapping;
mod notes;
mod regions;

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::authz::claims::{ClaimPath, IssuerName, Timestamp};
use crate::authz::issuer_id::{IssuerId, Spelling, Tenants};
use crate::authz::revocation::{Kind, Lead, Revocation, RevocationIndex, Target};
use crate::authz::token::TrustedIssuer;
use mapping::mappings;

pub use notes::{Notes, is_dropped, is_later};

/// The meaning of one issuer name: the `iss` whose tokens its revocations refuse, and the claims that name users and
/// sessions.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
struct Meaning {
    name: String,
    /// Every `iss`.
    issuer: Vec<String>,
    /// The tenants of a `{tenant}` in it; `None`: any.
    tenants: Option<Vec<String>>,
    /// Whether it is a former name: no revocation is written under it alone.
    is_former: bool,
    /// Former names: revocations under the name are also written under these.
    formerly: Vec<String>,
    user_id: Vec<String>,
    /// The claims by which users are found whom signals name by their address; may be empty.
    email: Vec<String>,
    session_id: Vec<String>,
    client_id: Vec<String>,
    /// Keys in which a later configuration in force differs: later revocations follow that configuration.
    settled: Vec<String>,
}

impl Meaning {
    /// The meaning of an issuer's present name, and of its former ones: revocations under them apply to its tokens.
    fn all(issuer: &TrustedIssuer) -> impl Iterator<Item = Self> {
        let texts = |claims: &[ClaimPath]| claims.iter().map(|claim| claim.as_str().to_owned()).collect();
        issuer.names().map(move |name| {
            let is_former = *name != issuer.name;
            let formerly = issuer.formerly.iter().filter(|_| !is_former).map(ToString::to_string).collect();
            Self {
                name: name.to_string(),
                issuer: issuer.issuer.texts().collect(),
                tenants: match issuer.issuer.tenants() {
                    Some(Tenants::OneOf(tenants)) => Some(tenants.clone()),
                    Some(Tenants::Any) | None => None,
                },
                is_former,
                formerly,
                user_id: texts(&issuer.claim_names.user_id),
                email: texts(addresses(issuer)),
                session_id: texts(&issuer.claim_names.session_id),
                client_id: texts(&issuer.claim_names.client_id),
                settled: Vec::new(),
            }
        })
    }

    fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    fn spelling(&self, text: &str) -> Spelling {
        Spelling::new(text, &self.tenants.clone().map_or(Tenants::Any, Tenants::OneOf))
    }

    fn issuer_id(&self) -> IssuerId {
        IssuerId::new(self.issuer.iter().map(|text| self.spelling(text)).collect())
    }

    /// The `iss` among these that an issuer accepts.
    fn accepted_by(&self, issuer: &TrustedIssuer) -> impl Iterator<Item = &String> {
        let is_accepted = |text: &&String| issuer.issuer.overlaps(&IssuerId::new(vec![self.spelling(text)]));
        self.issuer.iter().filter(move |text| is_accepted(text))
    }

    fn is_of(&self, name: &IssuerName) -> bool {
        name.as_str() == self.name
    }
}

/// The claims by which a user with a given address is found.
fn addresses(issuer: &TrustedIssuer) -> &[ClaimPath] {
    if issuer.revocable_by_email { &issuer.claim_names.email } else { &[] }
}

/// The meaning of a name as a text, and the last time at which an instance confirmed it; below zero: the time at which it
/// was dropped; 0: an operator dropped it.
pub type Note = (String, Timestamp);

/// The meanings of each name with their last use; a name may have had several. Their number is bounded by that of the
/// configurations in force.
#[derive(Clone, Debug, Default)]
pub struct Names(Vec<(Meaning, Timestamp)>);

/// A change by which revocations would no longer apply, or apply to the wrong tokens.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Conflict {
    /// The issuer's place in the configuration.
    pub issuer: usize,
    /// The key, relative to the issuer.
    pub key: &'static [&'static str],
    /// The fault and its remedy.
    pub message: String,
}

/// The changes of a new configuration to the notes.
#[derive(Clone, Debug, Default)]
pub struct Superseded {
    /// Notes to drop.
    pub ended: Vec<String>,
    /// Notes that replace them.
    pub amended: Vec<String>,
}

impl Superseded {
    pub fn extend(&mut self, more: Self) {
        self.ended.extend(more.ended);
        self.amended.extend(more.amended);
    }
}

/// The known facts about revocations that a change may lose.
pub struct Circumstances {
    pub index: Arc<RevocationIndex>,
    /// The earlier of both clocks.
    pub now: Timestamp,
    /// Other instances on the store may be revoking.
    pub others: bool,
    /// They could note that they use their names, for as long as a use counts ([`Names::IN_USE`]).
    pub others_note: bool,
    /// The longest time after its issue for which a token may be accepted, by any configuration that is noted.
    pub retention: Duration,
    /// The index may lack entries that were written up to now.
    pub is_behind: bool,
}

/// A difference between a note and a configuration; it is a conflict while revocations that it affects may live.
struct Change<'a> {
    at_note: usize,
    noted: &'a Meaning,
    seen: Timestamp,
    about: About,
    at: usize,
    issuer: &'a TrustedIssuer,
    key: &'static [&'static str],
    message: String,
    is_meant: fn(&Target) -> bool,
    /// Revocations under the name, which is not one of the issuer's, are also written under one of its names.
    is_copied: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum About {
    /// Tokens of the note are accepted by an issuer that does not keep the name.
    Name,
    /// Targets are named by another claim, or users with instead of without their tenant, or the reverse.
    Mapping,
    /// The name is that of another issuer.
    Namesake,
}

impl Names {
    /// The time for which an instance is assumed to use a name after its last note.
    pub const IN_USE: Duration = Duration::from_secs(90);

    /// Parses the store's notes that count; an unreadable note was written by another program.
    #[must_use]
    pub fn read(notes: Vec<Note>) -> Self {
        let read = |(text, seen): Note| Some((serde_json::from_str(&text).ok().filter(|_| !is_dropped(seen))?, seen));
        Self(notes.into_iter().filter_map(read).collect())
    }

    /// Whether this text is a note.
    #[must_use]
    pub fn is_note(text: &str) -> bool {
        serde_json::from_str::<Meaning>(text).is_ok()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this note is one of them.
    #[must_use]
    pub fn has(&self, text: &str) -> bool {
        self.0.iter().any(|(meaning, _)| meaning.text() == text)
    }

    /// The further names under which tokens of these issuers are noted, each with the lead of such an issuer.
    #[must_use]
    pub fn further_leads(&self, issuers: &[Arc<TrustedIssuer>]) -> Vec<(IssuerName, Lead)> {
        let further = |issuer: &Arc<TrustedIssuer>| {
            let (own, lead) = (issuer.clone(), issuer.lead.clone());
            let is_same = move |noted: &Meaning| {
                own.issuer.overlaps(&noted.issuer_id()) && !own.names().any(|name| noted.is_of(name))
            };
            let noted = self.0.iter().filter(move |(noted, _)| is_same(noted));
            noted.filter_map(move |(noted, _)| Some((IssuerName::parse(&noted.name)?, lead.clone())))
        };
        issuers.iter().flat_map(further).collect()
    }

    /// The meanings of these issuers' names, as of a time.
    #[must_use]
    pub fn of(issuers: &[Arc<TrustedIssuer>], seen: Timestamp) -> Self {
        Self(issuers.iter().flat_map(|issuer| Meaning::all(issuer)).map(|meaning| (meaning, seen)).collect())
    }

    /// The union, each meaning with its latest use.
    #[must_use]
    pub fn and(mut self, others: Self) -> Self {
        for (meaning, seen) in others.0 {
            match self.0.iter_mut().find(|(known, _)| *known == meaning) {
                Some((_, known)) => *known = seen.max(*known),
                None => self.0.push((meaning, seen)),
            }
        }
        self
    }

    /// The notes to store for these issuers.
    #[must_use]
    pub fn texts(issuers: &[Arc<TrustedIssuer>]) -> Vec<String> {
        issuers.iter().flat_map(|issuer| Meaning::all(issuer)).map(|meaning| meaning.text()).collect()
    }

    /// Whether these issuers differ from the notes in a way that may matter.
    #[must_use]
    pub fn differ_from(&self, issuers: &[Arc<TrustedIssuer>]) -> bool {
        !self.changes(issuers).is_empty()
    }

    /// The ways in which these issuers would lose revocations that may live, or share a name with a different issuer in
    /// use.
    #[must_use]
    pub fn conflicts(&self, issuers: &[Arc<TrustedIssuer>], circumstances: &Circumstances) -> Vec<Conflict> {
        let mut found = Vec::new();
        for change in self.changes(issuers) {
            if change.may_lose(circumstances) {
                let conflict = Conflict { issuer: change.at, key: change.key, message: change.message };
                if !found.contains(&conflict) {
                    found.push(conflict);
                }
            }
        }
        found
    }

    /// Updates the notes for a configuration in force that differs from them: no live revocation is affected by a
    /// difference, or `accept_loss` accepts the loss. Later revocations follow the new configuration. In each note only
    /// that difference is settled; the rest of the note stays valid. A difference that the configuration `before` had
    /// already, for example with another deployment, stays.
    pub fn supersede(
        &mut self,
        issuers: &[Arc<TrustedIssuer>],
        before: &[Arc<TrustedIssuer>],
        accept_loss: bool,
    ) -> Superseded {
        let mut next: Vec<(usize, Meaning)> = Vec::new();
        let before = self.changes(before);
        let stays = |change: &Change<'_>| change.is_copied || before.iter().any(|known| known.is_as(change));
        for change in self.changes(issuers).into_iter().filter(|change| accept_loss || !stays(change)) {
            if next.last().is_none_or(|(at, _)| *at != change.at_note) {
                next.push((change.at_note, change.noted.clone()));
            }
            let Some((_, meaning)) = next.last_mut() else { continue };
            match change.about {
                About::Mapping => meaning.settled.push(change.key.join(".")),
                About::Name => {
                    meaning.issuer.retain(|text| !change.noted.accepted_by(change.issuer).any(|lost| lost == text));
                }
                About::Namesake => meaning.issuer.clear(),
            }
        }
        let mut superseded = Superseded::default();
        for (at, meaning) in next.into_iter().rev() {
            let (noted, seen) = self.0.swap_remove(at);
            superseded.ended.push(noted.text());
            if !meaning.issuer.is_empty() {
                superseded.amended.push(meaning.text());
                *self = std::mem::take(self).and(Self(vec![(meaning, seen)]));
            }
        }
        superseded
    }

    /// Applies the same changes to notes that were read again.
    pub fn apply(&mut self, superseded: &Superseded, seen: Timestamp) {
        self.0.retain(|(meaning, _)| !superseded.ended.contains(&meaning.text()));
        let amended = superseded.amended.iter().map(|text| (text.clone(), seen)).collect();
        *self = std::mem::take(self).and(Self::read(amended));
    }

    fn changes<'a>(&'a self, issuers: &'a [Arc<TrustedIssuer>]) -> Vec<Change<'a>> {
        let mut found = Vec::new();
        for (at_note, (noted, seen)) in self.0.iter().enumerate() {
            let (name, id) = (&*noted.name, noted.issuer_id());
            for (at, issuer) in issuers.iter().enumerate() {
                let carries = issuer.names().any(|own| noted.is_of(own));
                let is_same = issuer.issuer.overlaps(&id);
                let mut change = |about,
                                  key: &'static [&'static str],
                                  is_meant: fn(&Target) -> bool,
                                  message: String| {
                    if about == About::Mapping && noted.settled.contains(&key.join(".")) {
                        return;
                    }
                    let seen = *seen;
                    let is_copied = about == About::Name
                        && issuer.names().any(|own| noted.formerly.iter().any(|name| name == own.as_str()));
                    found.push(Change { at_note, noted, seen, about, at, issuer, key, message, is_meant, is_copied });
                };
                if is_same && !carries {
                    let accepted = noted.accepted_by(issuer).map(String::as_str).collect::<Vec<_>>().join("`, `");
                    let own = &issuer.name;
                    let former = if noted.is_former { "former " } else { "" };
                    change(
                        About::Name,
                        &["name"],
                        |_| true,
                        format!(
                            "tokens of `{accepted}` were accepted under the {former}name `{name}`; its revocations \
                             may still be in force and would not apply to them under `{own}`; add \
                             `formerly: [{name}]`, or set `revocation.accept_loss: true`"
                        ),
                    );
                } else if is_same {
                    if noted_differently(&id, issuer) {
                        change(About::Mapping, &["issuer"], |target| target.kind == Kind::User, tenancy(name, &id));
                    }
                    for mapping in mappings(noted, issuer).into_iter().filter(|mapping| !mapping.keeps_names()) {
                        change(About::Mapping, mapping.key, mapping.is_meant, mapping.message(name));
                    }
                } else if noted.is_of(&issuer.name) && !noted.is_former && !self.is_linked(at_note, issuers) {
                    let other = noted.issuer.join("`, `");
                    let ours = issuer.issuer.texts().collect::<Vec<_>>().join("`, `");
                    change(
                        About::Namesake,
                        &["issuer"],
                        |_| true,
                        format!(
                            "the name `{name}` stands for `{other}` in revocations that may still be in force, but \
                             here for `{ours}`: they would apply to the wrong tokens; give this issuer another name \
                             (or, for another deployment, `revocation.redis.key_prefix`), or set `revocation.accept_loss: true`"
                        ),
                    );
                }
            }
        }
        found
    }

    /// Whether the name changed from this meaning to its present one by steps with a common `iss` each: spellings may
    /// be added and removed one at a time.
    fn is_linked(&self, note: usize, issuers: &[Arc<TrustedIssuer>]) -> bool {
        let name = &self.0[note].0;
        let carriers = issuers.iter().filter(|issuer| issuer.names().any(|own| name.is_of(own)));
        let mut reached: Vec<_> = carriers.map(|issuer| issuer.issuer.clone()).collect();
        let mut left: Vec<_> = self.0.iter().map(|(other, _)| other).filter(|other| other.name == name.name).collect();
        loop {
            let (next, rest): (Vec<&Meaning>, _) = left.iter().copied().partition(|other| {
                let id = other.issuer_id();
                reached.iter().any(|known| known.overlaps(&id))
            });
            if next.is_empty() {
                return !left.contains(&name);
            }
            reached.extend(next.into_iter().map(Meaning::issuer_id));
            left = rest;
        }
    }
}

impl Change<'_> {
    fn is_as(&self, other: &Change<'_>) -> bool {
        (self.at_note, self.key, &self.message) == (other.at_note, other.key, &other.message)
    }

    /// Whether a revocation that this affects may live.
    fn may_lose(&self, circumstances: &Circumstances) -> bool {
        let Circumstances { index, now, others, others_note, retention, is_behind } = circumstances;
        // The last token that was accepted as noted has expired, by whatever configuration it was accepted.
        let retention = self.issuer.retention().max(*retention);
        let over = self.seen.plus(retention.saturating_add(Names::IN_USE + self.issuer.leeway));
        if over <= *now {
            return false;
        }
        let may_be_used = !others_note || self.seen.plus(Names::IN_USE) > *now;
        let in_use = *others && !self.noted.is_former && may_be_used;
        let is_new_lost = !self.is_copied && (*is_behind || in_use);
        is_new_lost || index.entries().any(|known| self.loses(index, &known))
    }

    /// An expired revocation is known until its tokens have expired by every clock ([`RevocationIndex::purge`]).
    fn loses(&self, index: &RevocationIndex, known: &Revocation) -> bool {
        self.noted.is_of(&known.target.issuer)
            && (self.is_meant)(&known.target)
            && !(self.about == About::Name && self.issuer.names().any(|own| is_also_under(own, index, known)))
    }
}

/// Whether the same revocation exists under another name, as [`Replica`](super::replica::Replica) writes them.
fn is_also_under(name: &IssuerName, index: &RevocationIndex, known: &Revocation) -> bool {
    /// Entries of one transaction may have ids of two different milliseconds, and so two ends.
    const APART: Duration = Duration::from_secs(2);
    let target = known.target.clone().under(name.clone());
    let copy = Revocation { target, expires_at: known.expires_at.minus(APART), ..known.clone() };
    *name != known.target.issuer && index.knows(&copy)
}

/// Whether users were named with their tenant and are not any more, or the reverse.
fn noted_differently(noted: &IssuerId, issuer: &TrustedIssuer) -> bool {
    noted.is_multi_tenant() != issuer.issuer.is_multi_tenant()
}

fn tenancy(name: &str, noted: &IssuerId) -> String {
    let (before, next, cure) = if noted.is_multi_tenant() {
        ("", "out", "keep the `{tenant}` in `issuer`, with the tenants that are left in `tenants`")
    } else {
        ("out", "", "give the new issuer another name")
    };
    format!(
        "revocations of users under the name `{name}` may still be in force and name users with{before} their \
         tenant, but this configuration names users with{next} it: they would no longer apply; {cure}, or set \
         `revocation.accept_loss: true`"
    )
}
