//! Actors, which act for the subject of a token: the `act` claim (RFC 8693 section 4.1).
//!
//! The outermost actor is the current one, and those within it acted before. Only the current one counts for
//! authorization; every one of them can be revoked. `may_act` names possible future actors, which do not count.
//!
//! An actor with an `iss` other than the token's is another party than the token's issuer knows by that name: rules do
//! not accept it. A revocation refuses both, because it must not miss one.

use serde_json::Value;

use super::claims::ClaimSet;
use super::refusal::{Refusal, type_of};
use super::token::name;

/// One actor of a token.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Actor {
    /// The name that is shown.
    pub id: String,
    /// Its other names.
    pub others: Vec<String>,
    /// Whether its names are those of another issuer.
    pub is_foreign: bool,
}

impl Actor {
    /// The most actors, more than any exchange of tokens produces; each takes up to three lookups.
    pub const MOST: usize = 8;

    /// The claims that name an actor; the first that is present is shown.
    const NAMES: [&str; 3] = ["sub", "client_id", "azp"];

    /// The actors of a token, the current one first.
    ///
    /// A chain that cannot be read to its end is refused: an unknown actor could not be revoked.
    pub fn chain(claims: &ClaimSet) -> Result<Vec<Self>, Refusal> {
        let (mut next, mut chain) = (claims.get("act"), Vec::new());
        while let Some(act) = next.filter(|act| !act.is_null()) {
            if chain.len() == Self::MOST {
                let accepted = format_args!("a chain of at most {} actors", Self::MOST);
                return Err(Refusal::invalid("act", "a longer chain", accepted));
            }
            let Value::Object(mut members) = act else {
                return Err(Refusal::invalid("act", type_of(&act), "an object (RFC 8693 section 4.1)"));
            };
            next = members.remove("act");
            let iss = members.remove("iss").filter(|iss| !iss.is_null());
            let mut ids: Vec<String> = Vec::new();
            for claim in Self::NAMES {
                let id = name(&format!("act.{claim}"), members.remove(claim))?;
                ids.extend(id.filter(|id| !ids.contains(id)));
            }
            if ids.is_empty() {
                return Err(Refusal::invalid("act", "an actor without a name", "an object with `sub` or `client_id`"));
            }
            let id = ids.remove(0);
            chain.push(Self { id, others: ids, is_foreign: iss.is_some() && iss != claims.get("iss") });
        }
        Ok(chain)
    }

    /// All its names.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        [&self.id].into_iter().chain(&self.others).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn chain(act: Value) -> Option<Vec<Vec<String>>> {
        let read = Actor::chain(&ClaimSet::from(json!({"sub": "alice", "act": act, "may_act": {"sub": "x"}}))).ok()?;
        Some(read.iter().map(|actor| actor.ids().map(str::to_owned).collect()).collect())
    }

    #[test]
    fn an_actor_of_another_issuer_is_foreign() {
        let own = "https://auth.example.com";
        for (iss, token, expected) in [
            (json!(null), json!(own), false),
            (json!(own), json!(own), false),
            (json!("https://other.example"), json!(own), true),
            (json!("https://auth.example.com/"), json!(own), true),
            (json!(""), json!(own), true),
            (json!([own]), json!(own), true),
            (json!(own), json!(null), true), // Of an introspection response, which may lack `iss`.
        ] {
            let act = json!({"sub": "agent-7", "iss": iss, "act": {"sub": "planner"}});
            let chain = Actor::chain(&ClaimSet::from(json!({"iss": token, "act": act}))).unwrap();
            assert_eq!(chain.iter().map(|actor| actor.is_foreign).collect::<Vec<_>>(), [expected, false], "{act}");
        }
    }

    #[test]
    fn a_chain_is_read_to_its_end_or_refused() {
        let nested = |depth: usize| (1..depth).fold(json!({"sub": "1"}), |act, _| json!({"sub": "n", "act": act}));
        assert_eq!(chain(Value::Null), Some(vec![]));
        assert_eq!(Actor::chain(&ClaimSet::from(json!({"may_act": {"sub": "x"}}))), Ok(vec![]));
        assert_eq!(chain(json!({"sub": "a", "iss": "https://i"})), Some(vec![vec!["a".to_owned()]]));
        let both = json!({"sub": "a", "client_id": "c", "azp": "a", "act": {"client_id": 7, "act": null}});
        let expected = vec![vec!["a".to_owned(), "c".to_owned()], vec!["7".to_owned()]];
        assert_eq!(chain(both), Some(expected));
        assert_eq!(chain(nested(Actor::MOST)).map(|chain| chain.len()), Some(Actor::MOST));
        for unreadable in [
            nested(Actor::MOST + 1),
            json!("agent"),
            json!(["agent"]),
            json!({}),
            json!({"sub": ""}),
            json!({"sub": null}),
            json!({"sub": ["agent"]}),
            json!({"sub": "a", "client_id": {"id": "c"}}),
            json!({"iss": "https://i"}),
            json!({"sub": "a", "act": {}}),
            json!({"sub": "a", "act": "b"}),
        ] {
            assert_eq!(chain(unreadable.clone()), None, "{unreadable}");
        }
    }
}
