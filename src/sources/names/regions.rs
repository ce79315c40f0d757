//! The meaning of names in two stores whose revocations are copied from one to the other.

use std::collections::HashMap;

use super::{Meaning, Names};
use crate::authz::claims::{IssuerName, Timestamp};

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
    let named: Vec<_> = theirs.iter().filter(|meaning| meaning.name == *name).collect();
    let Some(there) = named.iter().copied().find(|meaning| same(meaning)) else {
        if let Some(there) = named.first() {
            let (here, there) = (ours.issuer.join("`, `"), there.issuer.join("`, `"));
            return Some(format!(
                "the name `{name}` stands for `{here}` in the one region and for `{there}` in the other; give one of \
                 the two issuers another name"
            ));
        }
        // Under former names each revocation is written, too.
        let is_written = |there: &&&Meaning| ours.is_former || ours.formerly.contains(&there.name);
        let there = theirs.iter().filter(same).find(|there| !is_written(there))?;
        let (here, there) = (ours.issuer.join("`, `"), &there.name);
        return Some(format!(
            "tokens of `{here}` have the name `{name}` in the one region and `{there}` in the other; use one name in \
             both, or add `formerly: [{name}]` in the other"
        ));
    };
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
    let (here, there) = (listed(here), listed(there));
    let why = if key == "email" { " (users named by an address, by signals)" } else { "" };
    Some(format!(
        "`claims.{key}` of `{name}` is {here} in the one region and {there} in the other{why}; use the same claims"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meaning(name: &str, issuer: &str) -> Meaning {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
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
        let former = Meaning { is_former: true, ..main() };
        let prod = || Meaning { formerly: vec!["main".to_owned()], ..meaning("prod", "https://a.test") };
        check([main()], [prod(), former.clone()], None);
        check([prod(), former], [main()], None);
        let by_email = || Meaning { email: vec!["email".to_owned()], ..main() };
        check([by_email()], [main()], Some("`claims.email` of `main` is [email]"));
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
