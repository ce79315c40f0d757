//! The changes to a request: removed names, and places from which tokens are removed.

use crate::rule::RequestView;
use crate::token_source::TokenSource;

/// A request target without some parameters of its query, as Envoy's `query_parameters_to_remove` leaves it: the
/// others sorted by their names, each with `=` (`Http::Utility::QueryParamsMulti`).
#[must_use]
pub fn without_query(target: &str, names: &[String]) -> String {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    // Envoy does not count the empty text after a last `&` as a parameter.
    let query = query.strip_suffix('&').unwrap_or(query);
    let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let mut kept: Vec<_> = pairs.filter(|(name, _)| !names.iter().any(|removed| removed == name)).collect();
    if query.is_empty() {
        kept.clear();
    }
    kept.sort_by_key(|(name, _)| *name); // Stable: values of one name stay in order.
    let mut rest = path.to_owned();
    for (at, (name, value)) in kept.into_iter().enumerate() {
        rest.push(if at == 0 { '?' } else { '&' });
        rest.extend([name, "=", value]);
    }
    rest
}

/// A name and every spelling of it with `_` or `.` for `-`: many back ends read them as one
/// (`HTTP_X_USER_ID`), so a look-alike that passes is a spoofed identity.
pub fn look_alikes(name: &str) -> Vec<String> {
    let mut spellings = vec![String::new()];
    for part in name.split_inclusive('-') {
        let (text, dash) = part.strip_suffix('-').map_or((part, false), |text| (text, true));
        let ends: &[&str] = if dash { &["-", "_", "."] } else { &[""] };
        spellings =
            spellings.iter().flat_map(|start| ends.iter().map(move |end| format!("{start}{text}{end}"))).collect();
    }
    spellings
}

/// The `cookie` fields joined into one without these cookies; `None` if none of them was there. Empty, too, if the
/// rest is not UTF-8, because it could not be sent on.
pub(super) fn cookies_without(request: &RequestView<'_>, sources: &[&TokenSource]) -> Option<String> {
    let withheld = |pair: &&[u8]| {
        let name = pair.split(|b| *b == b'=').next().unwrap_or_default().trim_ascii_end();
        sources.iter().any(|source| source.is_cookie(name))
    };
    let pairs = || request.header("cookie").flat_map(|field| field.split(|b| *b == b';')).map(<[u8]>::trim_ascii);
    if sources.is_empty() || !pairs().any(|pair| withheld(&pair)) {
        return None;
    }
    let kept: Vec<_> = pairs().filter(|pair| !withheld(pair)).collect();
    Some(String::from_utf8(kept.join(&b"; "[..])).unwrap_or_default())
}
