//! A JSON object as received, with the places of its members.
//!
//! A tree of values takes several times the memory of the text, and only a few members of most tokens are read;
//! so a member is parsed when it is read.

use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroU32;
use std::ops::Range;

use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::denial::Denial;

/// The members of a token's header or payload, or of an introspection response.
#[derive(Clone, Default)]
pub struct ClaimSet {
    /// The object, followed by the decoded forms of names with escapes, and by texts of [`Self::hold`].
    text: Box<str>,
    members: Box<[Member]>,
}

/// Its place in the text.
#[derive(Clone, Copy)]
struct Member {
    name: Span,
    value: Span,
}

#[derive(Clone, Copy)]
struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// `None` beyond 4 GiB.
    fn new(start: usize, len: usize) -> Option<Self> {
        Some(Self { start: u32::try_from(start).ok()?, end: u32::try_from(start + len).ok()? })
    }

    const fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// A text that a [`ClaimSet`] holds. Its end: an object begins with `{`, so that no text in it ends at 0.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeldText {
    start: u32,
    end: NonZeroU32,
}

impl ClaimSet {
    /// The deepest nesting of JSON: the reader bounds its own recursion.
    pub const MAX_DEPTH: usize = 32;

    /// Reads a JSON object that has only one reading. `MalformedToken` if it is not an object, a value cannot be
    /// read, or a member is repeated at any depth (RFC 7519 section 4 allows refusing that): with duplicates, two parsers of
    /// one token see two users.
    pub fn parse(json: Vec<u8>) -> Result<Self, Denial> {
        let text = String::from_utf8(json).map_err(|_| Denial::MalformedToken)?;
        Self::read(text).ok_or(Denial::MalformedToken)
    }

    fn read(mut text: String) -> Option<Self> {
        let Members(mut found) = serde_json::from_str(&text).ok()?;
        found.sort_unstable_by(|(one, _), (other, _)| one.len().cmp(&other.len()).then_with(|| one.cmp(other)));
        if found.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return None;
        }
        let mut names = String::new();
        let mut members = Vec::with_capacity(found.len());
        let start = |part: &str| part.as_ptr().addr() - text.as_ptr().addr();
        for (name, value) in found {
            let value = value.get();
            if !is_sound(value) {
                return None;
            }
            let name = match name {
                Cow::Borrowed(name) => Span::new(start(name), name.len())?,
                Cow::Owned(name) => {
                    names.push_str(&name);
                    Span::new(text.len() + names.len() - name.len(), name.len())?
                }
            };
            members.push(Member { name, value: Span::new(start(value), value.len())? });
        }
        text.push_str(&names);
        Some(Self { text: text.into(), members: members.into() })
    }

    /// The value of a member.
    #[must_use]
    #[inline]
    pub fn get(&self, name: &str) -> Option<Value> {
        self.find(name).map(|member| self.value(member))
    }

    /// Holds a text beside the members: mostly it is the value of one of them, and takes no memory.
    pub(crate) fn hold(&mut self, text: &str) -> Result<HeldText, Denial> {
        let is_it = |member: &&Member| plain_text(&self.text[member.value.range()]) == Some(text);
        let start = if let Some(member) = self.members.iter().find(is_it) {
            member.value.range().start + 1 // Behind the quote.
        } else {
            let start = self.text.len();
            self.text = [&*self.text, text].concat().into();
            start
        };
        let held = Span::new(start, text.len())
            .and_then(|Span { start, end }| Some(HeldText { start, end: NonZeroU32::new(end)? }));
        held.ok_or(Denial::MalformedToken)
    }

    /// A text that this set holds.
    pub(crate) fn held(&self, HeldText { start, end }: HeldText) -> &str {
        &self.text[start as usize..end.get() as usize]
    }

    /// The names of the members.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.members.iter().map(|member| &self.text[member.name.range()])
    }

    #[must_use]
    #[inline]
    pub fn contains_key(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// The length of the object in bytes, including what stands after it.
    #[must_use]
    pub fn json_len(&self) -> usize {
        self.text.len()
    }

    /// Its memory on the heap, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.text.len() + size_of_val(&*self.members)
    }

    /// Inlined, because most names are literals: a comparison with a literal needs no call.
    #[inline]
    fn find(&self, name: &str) -> Option<&Member> {
        let (text, name) = (self.text.as_bytes(), name.as_bytes());
        self.members.iter().find(|member| text[member.name.range()] == *name)
    }

    fn value(&self, member: &Member) -> Value {
        let json = &self.text[member.value.range()];
        // Every value was parsed before, so this null cannot occur, and does not mean absent.
        plain_text(json).map_or_else(|| value_of(json).unwrap_or_default(), Value::from)
    }
}

impl fmt::Debug for ClaimSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClaimSet({} members)", self.members.len()) // The values are about a person.
    }
}

/// The text of a string without escapes.
fn plain_text(json: &str) -> Option<&str> {
    let [b'"', .., b'"'] = json.as_bytes() else { return None };
    Some(&json[1..json.len() - 1]).filter(|text| !text.contains('\\'))
}

/// Whether the text of a value is valid; its end was found already.
fn is_sound(json: &str) -> bool {
    plain_text(json).is_some() || value_of(json).is_ok()
}

fn value_of(json: &str) -> serde_json::Result<Value> {
    let mut json = serde_json::Deserializer::from_str(json);
    Nested { deeper: ClaimSet::MAX_DEPTH - 1 }.deserialize(&mut json)
}

/// Names and the raw texts of values in an object.
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::with_capacity(USUAL_MEMBERS);
                while let Some((Name(name), value)) = access.next_entry()? {
                    members.push((name, value));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(All)
    }
}

/// The claims of an access token.
const USUAL_MEMBERS: usize = 16;

#[derive(serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// Reads a value with a bounded depth, in which no object repeats a member: who acts (`act`), or for what (`cnf`,
/// `authorization_details`), would be two things to two parsers.
///
/// Not `Value`'s own reader: if a crate enables raw values in `serde_json`, that reader replaces an object with
/// a certain member by the JSON in that member's text, so an attacker who chooses a name in a claim could
/// rewrite the claim.
#[derive(Clone, Copy)]
struct Nested {
    deeper: usize,
}

impl Nested {
    fn inner<E: de::Error>(self) -> Result<Self, E> {
        let deeper = self.deeper.checked_sub(1).ok_or_else(|| E::custom("nested too deeply"))?;
        Ok(Self { deeper })
    }
}

impl<'de> DeserializeSeed<'de> for Nested {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Nested {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, truth: bool) -> Result<Value, E> {
        Ok(truth.into())
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let (inner, mut items) = (self.inner()?, Vec::new());
        while let Some(item) = access.next_element_seed(inner)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let (inner, mut members) = (self.inner()?, Map::new());
        while let Some(name) = access.next_key()? {
            if members.insert(name, access.next_value_seed(inner)?).is_some() {
                return Err(de::Error::custom("a member is repeated"));
            }
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
impl From<Value> for ClaimSet {
    fn from(object: Value) -> Self {
        Self::parse(object.to_string().into_bytes()).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn parse(json: &str) -> Option<ClaimSet> {
        ClaimSet::parse(json.into()).ok()
    }

    #[test]
    fn names_and_values_may_be_written_with_escapes() {
        let claims = parse(r#" { "s\u0075b" : "\u0061b" , "a\"b":[1 , {"c":"\n"}],"é":-0.5e1, "":null} "#).unwrap();
        for (name, value) in [
            ("sub", Some(json!("ab"))),
            ("a\"b", Some(json!([1, {"c": "\n"}]))),
            ("é", Some(json!(-5.0))),
            ("", Some(Value::Null)),
            ("s\\u0075b", None),
            ("iss", None),
        ] {
            assert_eq!((claims.get(name), claims.contains_key(name)), (value.clone(), value.is_some()), "{name}");
        }
    }

    #[test]
    fn ambiguous_and_unreadable_values_are_refused() {
        let nested = |depth: usize| format!(r#"{{"a":{}1{}}}"#, "[".repeat(depth - 1), "]".repeat(depth - 1));
        assert!(parse(&nested(ClaimSet::MAX_DEPTH)).is_some());
        let deep = [nested(ClaimSet::MAX_DEPTH + 1), nested(100_000)];
        let texts = [
            "",
            "null",
            "[]",
            r#"{"a":1}x"#,
            r#"{"a":1,}"#,
            r#"{"a":1,"a":2}"#,
            r#"{"a":1,"\u0061":2}"#,
            r#"{"act":{"sub":"a","sub":"b"}}"#,
            r#"{"act":{"sub":"a","act":{"sub":"b"},"\u0061ct":null}}"#,
            r#"{"cnf":{"jkt":"a","jkt":"a"}}"#,
            r#"{"a":[[{"b":1,"b":1}]]}"#,
            r#"{"a":"\ud800"}"#,
            r#"{"a":["\ud800"]}"#,
            r#"{"a":1e999}"#,
            r#"{"a":[01]}"#,
            "{\"a\":\"\n\"}",
        ];
        for text in texts.into_iter().chain(deep.iter().map(String::as_str)) {
            assert!(parse(text).is_none(), "{}", &text[..text.len().min(40)]);
        }
        assert!(ClaimSet::parse(b"{\"a\":\"\xff\"}".to_vec()).is_err());
    }

    #[test]
    fn held_texts_are_those_of_members_or_stand_beside_them() {
        let mut claims = parse(r#"{"sub":"ab","s\u0069d":"c\u0064","email":""}"#).unwrap();
        let before = claims.bytes();
        let texts = ["ab", "", "cd", "é", "ab"];
        let held = texts.map(|text| claims.hold(text).unwrap());
        assert_eq!(held.map(|text| claims.held(text).to_owned()), texts);
        assert_eq!(claims.bytes(), before + "cdé".len());
        assert_eq!(claims.get("sub"), Some(json!("ab")));
        assert_eq!(claims.get("sid"), Some(json!("cd")));
        assert!(ClaimSet::default().hold("").is_err(), "no object");
    }

    #[test]
    fn no_member_stands_for_another_value() {
        let claims = parse(r#"{"a":{"$serde_json::private::RawValue":"[\"admin\"]"}}"#).unwrap();
        assert_eq!(claims.get("a"), Some(json!({"$serde_json::private::RawValue": "[\"admin\"]"})));
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<i32>().prop_map(|halves| Value::from(f64::from(halves) / 2.0)), // Others may lose their last bit.
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::btree_map(any::<String>(), inner, 0..5)
                    .prop_map(|members| members.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn every_member_is_found_as_it_was_written(
            members in prop::collection::btree_map(any::<String>(), any_value(), 0..20), pretty in any::<bool>(),
            other in any::<String>(),
        ) {
            let object = Value::Object(members.clone().into_iter().collect());
            let text = if pretty { format!("{object:#}") } else { object.to_string() };
            let claims = parse(&text).unwrap();
            for (name, value) in &members {
                prop_assert_eq!(&claims.get(name), &Some(value.clone()));
            }
            prop_assert_eq!(claims.contains_key(&other), members.contains_key(&other));
        }
    }
}
