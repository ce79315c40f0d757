//! Keeps the status lists of issuers: fetched by their sources, verified by the keys in force, stored for decisions.

use std::sync::Arc;

use anyhow::Context;

use super::assemble;
use crate::authz::denial::Denial;
use crate::authz::refusal::Refusal;
use crate::authz::token::{BearerToken, UnverifiedToken};
use crate::clock;
use crate::config::Config;
use crate::sources::status_lists::{Fetched, StatusListSource, Taken};
use crate::state::State;

/// A source for every issuer whose lists are read; one with the same settings is kept.
pub(super) fn sources(
    config: &Config,
    known: &[Arc<StatusListSource>],
    state: &State,
) -> anyhow::Result<Vec<Arc<StatusListSource>>> {
    assemble::status_list_settings(config)
        .map(|(name, settings)| {
            state.metrics.expect_status_lists(name.as_str());
            let same = known.iter().find(|known| known.issuer == *name && known.settings() == settings);
            if let Some(same) = same {
                return Ok(same.clone());
            }
            let source = StatusListSource::new(name.clone(), settings.clone(), state.status_lists.clone());
            source.map(Arc::new).with_context(|| format!("build the HTTP client for the status lists of {name}"))
        })
        .collect()
}

/// Fetches for ever.
pub(super) async fn keep(source: &StatusListSource, state: &State) {
    let count = |result| state.metrics.status_list_fetches(source.issuer.as_str(), result).inc();
    let allows = |uri: &str| {
        let policy = state.policy();
        let lists = policy.authorizer.issuer_named(&source.issuer).and_then(|issuer| issuer.status_list.as_ref());
        lists.is_some_and(|lists| lists.allows(uri))
    };
    source.run(allows, |fetched| take(source, state, &fetched), count).await;
}

fn take(source: &StatusListSource, state: &State, fetched: &Fetched) -> Taken {
    match verify(source, state, fetched) {
        Ok(taken) => taken,
        Err(Refusal { denial, detail }) => {
            if denial == Denial::UnknownKey
                && let Some(keys) = state.keys().of(&source.issuer)
            {
                keys.request_fetch(); // The issuer may have a new key.
            }
            let detail = detail.map(|detail| format!(": {detail}")).unwrap_or_default();
            Taken::Rejected(format!("{}{detail}", denial.label()))
        }
    }
}

fn verify(source: &StatusListSource, state: &State, fetched: &Fetched) -> Result<Taken, Refusal> {
    let policy = state.policy();
    let issuer = policy.authorizer.issuer_named(&source.issuer).ok_or(Denial::UnknownIssuer)?;
    let settings = source.settings();
    let token = UnverifiedToken::parse(BearerToken::parse(fetched.body.trim_ascii(), settings.max_body())?)?;
    let list = issuer.verify_status_list(token, &fetched.uri, settings.max_bytes, clock::now())?;
    let (ttl, expires_at) = (list.ttl, list.expires_at);
    if state.store_status_list(issuer, &fetched.uri, list, fetched.began) {
        Ok(Taken::Stored { ttl, expires_at })
    } else {
        Err(Refusal::new(Denial::InvalidClaim, "`iat` is earlier than that of the stored list"))
    }
}
