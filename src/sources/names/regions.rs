//! The meaning of names in two stores whose revocations are copied from one to the other.

use std::collections::HashMap;

use super::{Meaning, Names};
use crate::authz::claims::{IssuerName, Timestamp};
use crate::authz::issuer_id::IssuerId;

impl Names {
    /// The names in the notes, at most [`Self::MOST`].
    #[must_use]
    pub fn issuers(&self) -> Vec<IssuerName> {
        let mut names: Vec<_> = self.0.iter().filter_map(|(meaning, _)| IssuerName::parse(&meaning.name)).collect();
        names.sort();
        names.dedup();
        names.truncate(Self::MOST);
        names
    }

    /// More than any configuration has.
    const MOST: usize = 1000;

    /// Without the meanings that no instance has used since then: no revocation under them lives.
    #[must_use]
    pub fn used_after(mut self, then: Timestamp) -> Self {
        self.0.retain(|(_, seen)| seen.plus(Self::IN_USE) > then);
        self
    }

    /// Why revocations under these names would not refuse the same tokens in another store; `None` if they would. A name
    /// that only one of the stores has is not a reason: its issuer is not accepted there.
    #[must_use]
    pub fn conflict_in(&self, other: &Self) -> Option<String> {
        let (ours, theirs) = (self.latest(), other.latest());
        ours.into_iter().find_map(|ours| conflict(ours, &theirs))
    }

    /// Of each name, the meaning that was used last.
    fn latest(&self) -> Vec<&Meaning> {
        let mut used: HashMap<&str, Timestamp> = HashMap::new();
        for (meaning, seen) in &self.0 {
            let latest = used.entry(&meaning.name).or_default();
            *latest = (*latest).max(*seen);
        }
        let is_latest = |(meaning, seen): &&(Meaning, Timestamp)| used.get(&*meaning.name) == Some(seen);
        let mut latest: Vec<_> = self.0.iter().filter(is_latest).map(|(meaning, _)| meaning).collect();
        latest.sort_by(|one, other| one.name.cmp(&other.name)); // The same conflict is named at each check.
        latest
    }
}

fn conflict(ours: &Meaning, theirs: &[&Meaning]) -> Option<String> {
    let (name, id) = (&ours.name, ours.issuer_id());
    let same = |meaning: &&&Meaning| meaning.issuer_id().overlaps(&id);
    let named: Vec<_> = theirs.iter().copied().filter(|meaning| meaning.name == *name).collect();
    let there = named.iter().find(same);
    if let (None, Some(there)) = (there, named.first()) {
        let (here, there) = (ours.issuer.join("`, `"), there.issuer.join("`, `"));
        return Some(format!(
            "the name `{name}` stands for `{here}` in the one region and for `{there}` in the other; give one of the two \
             issuers another name"
        ));
    }
    // A revocation is written under all names that its issuer has here, and looked up under all that it has there. The tokens
    // of a former name are those of a present one.
    let is_found = |there: &&&Meaning| {
        let mut written = std::iter::once(name).chain(&ours.formerly);
        ours.is_former || there.is_former || written.any(|name| *name == there.name || there.formerly.contains(name))
    };
    if let Some(there) = theirs.iter().filter(same).find(|there| !is_found(there)) {
        let accepted = |text: &&String| id.overlaps(&IssuerId::new(vec![there.spelling(text)]));
        let tokens: Vec<_> = there.issuer.iter().filter(accepted).map(String::as_str).collect();
        let (tokens, there) = (tokens.join("`, `"), &there.name);
        return Some(format!(
            "tokens of `{tokens}` have the name `{name}` in the one region and `{there}` in the other; use one name in \
             both, or add `formerly: [{name}]` in the other"
        ));
    }
    let there = there?;
    if there.issuer_id().is_multi_tenant() != id.is_multi_tenant() {
        return Some(format!(
            "users of `{name}` are named with their tenant in one region only; use the same `issuer`"
        ));
    }
    let keeps = |before: &[String], next: &[String]| {
        next.len() >= before.len() && before.iter().zip(next).all(|(before, next)| before == next)
    };
    let claims = [
        ("user_id", &ours.user_id, &there.user_id),
        ("email", &ours.email, &there.email),
        ("session_id", &ours.session_id, &there.session_id),
        ("client_id", &ours.client_id, &there.client_id),
    ];
    let (key, here, there) = claims.into_iter().find(|(_, here, there)| !keeps(here, there))?;
    let listed = |claims: &[String]| format!("[{}]", claims.join(", "));
    if key == "email" && there.is_empty() {
        return Some(format!(
            "users of `{name}` are found by the address in {} in the one region only, because of `signals.transmitters`; \
             add the transmitter in the other one, without `stream` and `poll`, or take `email` out of its `subjects`",
            listed(here)
        ));
    }
    let (here, there) = (listed(here), listed(there));
    let why = if key == "email" { " (users named by an address, by signals)" } else { "" };
    Some(format!(
        "`claims.{key}` of `{name}` is {here} in the one region and {there} in the other{why}; use the same claims"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    fn meaning(name: &str, issuer: &str) -> Meaning {
        Meaning {
            name: name.to_owned(),
            issuer: texts(&[issuer]),
            tenants: None,
            is_former: false,
            formerly: Vec::new(),
            user_id: texts(&["sub"]),
            email: Vec::new(),
            session_id: texts(&["sid"]),
            client_id: texts(&["azp", "client_id"]),
            settled: Vec::new(),
        }
    }

    fn names(meanings: impl IntoIterator<Item = Meaning>) -> Names {
        Names((1..).zip(meanings).map(|(at, meaning)| (meaning, Timestamp::from_secs(at))).collect())
    }

    #[track_caller]
    fn check(ours: impl IntoIterator<Item = Meaning>, theirs: impl IntoIterator<Item = Meaning>, found: Option<&str>) {
        let conflict = names(ours).conflict_in(&names(theirs));
        match (&conflict, found) {
            (None, None) => {}
            (Some(conflict), Some(part)) => assert!(conflict.contains(part), "{conflict}"),
            _ => panic!("{conflict:?}, expected {found:?}"),
        }
    }

    #[test]
    fn names_mean_the_same_in_both_regions() {
        let main = || meaning("main", "https://a.test");
        check([main()], [], None);
        check([], [main()], None);
        check([main()], [main()], None);
        check([main()], [meaning("other", "https://b.test")], None);
        check([main()], [meaning("main", "https://b.test")], Some("stands for `https://a.test`"));
        check([main()], [meaning("prod", "https://a.test")], Some("add `formerly: [main]`"));
        // One of two `iss` has another name there.
        let both = || Meaning { issuer: texts(&["https://a.test", "https://b.test"]), ..main() };
        let b = || meaning("b", "https://b.test");
        check(
            [both()],
            [main(), b()],
            Some("tokens of `https://b.test` have the name `main` in the one region and `b`"),
        );
        check([main(), b()], [both()], Some("tokens of `https://b.test` have the name `b`"));
        check([both()], [main(), Meaning { formerly: texts(&["main"]), ..b() }], None);
        check([main()], [both()], None);
        check([both()], [main()], None);
        let former = Meaning { is_former: true, ..main() };
        let prod = || Meaning { formerly: texts(&["main"]), ..meaning("prod", "https://a.test") };
        check([main()], [prod(), former.clone()], None);
        check([prod(), former.clone()], [main()], None);
        let next = Meaning { formerly: texts(&["main"]), ..meaning("next", "https://a.test") };
        check([prod(), former.clone()], [next, former], None);
        let by_email = || Meaning { email: vec!["email".to_owned()], ..main() };
        check([by_email()], [main()], Some("by the address in [email] in the one region only"));
        let by_mail = Meaning { email: texts(&["mail"]), ..main() };
        check([by_email()], [by_mail], Some("`claims.email` of `main` is [email] in the one region and [mail]"));
        check([main()], [by_email()], None);
        let by_uid = Meaning { user_id: vec!["uid".to_owned()], ..main() };
        check([main()], [by_uid], Some("`claims.user_id`"));
        let tenants = meaning("main", "https://{tenant}.test");
        check([main()], [tenants], Some("tenant"));
        // The meaning that was used last counts.
        check([meaning("main", "https://old.test"), main()], [main()], None);
        let old = || names([meaning("main", "https://b.test")]);
        assert!(names([main()]).conflict_in(&old().used_after(Timestamp::from_secs(1))).is_some());
        assert_eq!(names([main()]).conflict_in(&old().used_after(Timestamp::from_secs(1_000))), None);
        assert_eq!(names([main(), main(), meaning("b", "https://b.test")]).issuers().len(), 2);
    }
}
