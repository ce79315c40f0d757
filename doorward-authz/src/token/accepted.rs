//! The accepted audiences and types of an issuer's tokens.

use serde_json::Value;

use super::unverified::media_type;
use crate::denial::Denial;
use crate::refusal::{List, Refusal, Shown, near_miss, type_of};
use crate::token_use::TokenUse;

/// The `aud` that a token must name.
#[derive(Clone, Debug)]
pub enum Audiences {
    Any,
    OneOf(Vec<String>),
}

impl Audiences {
    /// Checks the audiences that a claim of this name has: `aud`, unless an issuer writes them elsewhere.
    pub(crate) fn check(&self, claim: &str, named: Option<Value>) -> Result<(), Refusal> {
        if let (Self::OneOf(ours), Some(Value::String(one))) = (self, &named)
            && ours.contains(one)
        {
            return Ok(());
        }
        let named = match named {
            Some(Value::Array(items)) => Some(items).filter(|items| !items.is_empty()),
            one => one.map(|one| vec![one]),
        };
        if let Some(strange) = named.iter().flatten().find(|one| !one.is_string()) {
            return Err(Refusal::invalid(
                claim,
                format_args!("or has {}", type_of(strange)),
                "text or a list of texts",
            ));
        }
        let Self::OneOf(ours) = self else { return Ok(()) };
        let Some(named) = named else {
            return Err(Refusal::missing(claim, format_args!("one of {}", List(ours.iter()))));
        };
        let named: Vec<_> = named.iter().filter_map(Value::as_str).collect();
        if named.iter().any(|one| ours.iter().any(|our| one == our)) {
            return Ok(());
        }
        let pairs = named.iter().flat_map(|one| ours.iter().map(move |our| near_miss(one, our)));
        let miss = pairs.take(Self::MOST_COMPARED).find(|miss| !miss.is_empty()).unwrap_or_default();
        let found = format_args!("`{claim}` is {}; accepted: {}{miss}", List(named.iter()), List(ours.iter()));
        Err(Refusal::new(Denial::WrongAudience, found))
    }

    /// The most pairs of names that are compared for their difference.
    const MOST_COMPARED: usize = 64;
}

/// The `typ` that a token may name.
#[derive(Clone, Debug)]
pub struct TokenTypes(Vec<String>);

impl TokenTypes {
    /// The first name that may never be allowed is returned as an error.
    pub fn new(names: &[String]) -> Result<Self, String> {
        let foreign = |name: &str| matches!(TokenUse::of_value(name), Some(TokenUse::Refresh | TokenUse::Message));
        match names.iter().find(|name| foreign(name)) {
            Some(foreign) => Err(foreign.clone()),
            None => Ok(Self(names.iter().map(|name| media_type(name)).collect())),
        }
    }

    /// The media types, in lower case.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.0
    }

    /// A token without `typ` is a plain `JWT` (RFC 7519 section 5.1).
    pub(super) fn check(&self, token_type: Option<&str>) -> Result<(), Refusal> {
        if self.0.contains(&media_type(token_type.unwrap_or("JWT"))) {
            return Ok(());
        }
        let found = token_type.map_or("missing".to_owned(), |token_type| Shown(token_type).to_string());
        let found = format_args!("`typ` of the header is {found}; accepted (`token_types`): {}", List(self.0.iter()));
        Err(Refusal::new(Denial::WrongType, found))
    }
}
