//! Settings as text, for `check-config`.

use toml::{Table, Value};
use url::Url;

const HIDDEN: &str = "(hidden)";

/// The settings as TOML with secrets hidden: texts under a key that speaks of a token, secret, password, API key or
/// private key, and what is secret inside URLs.
pub fn effective(table: &Table) -> String {
    let mut shown = table.clone();
    for (key, value) in &mut shown {
        hide(key, value);
    }
    toml::to_string_pretty(&shown).unwrap_or_else(|error| format!("# cannot be shown: {error}\n"))
}

fn hide(key: &str, value: &mut Value) {
    let key = key.to_lowercase();
    let secret =
        ["token", "secret", "password", "api_key", "private"].iter().any(|word| key.contains(word));
    match value {
        Value::String(text) if secret && !text.is_empty() => HIDDEN.clone_into(text),
        Value::String(text) => hide_url_secrets(text),
        Value::Array(list) => list.iter_mut().for_each(|value| hide(&key, value)),
        Value::Table(table) => table.iter_mut().for_each(|(key, value)| hide(key, value)),
        _ => {}
    }
}

/// Providers of chain nodes put the caller's key into user name, password, query or path.
fn hide_url_secrets(text: &mut String) {
    let Ok(mut url) = Url::parse(text) else { return };
    let mut hidden = false;
    if url.password().is_some() {
        hidden |= url.set_password(Some("hidden")).is_ok();
    }
    if !url.username().is_empty() && !url.cannot_be_a_base() {
        hidden |= url.set_username("hidden").is_ok();
    }
    if url.query().is_some() {
        url.set_query(Some("hidden"));
        hidden = true;
    }
    if matches!(url.scheme(), "ws" | "wss") && url.path().len() > 1 {
        url.set_path("hidden");
        hidden = true;
    }
    if hidden {
        *text = url.into();
    }
}
