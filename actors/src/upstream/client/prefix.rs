//! Where an answer is continued. Everywhere but at DeepSeek that is where answers are made; DeepSeek takes a prefix at its
//! beta address only (https://api-docs.deepseek.com/guides/chat_prefix_completion).

use super::ProviderClient;
use crate::config::PrefillStyle;
use reqwest::Url;

const DEEPSEEK: &str = "api.deepseek.com";
const DEEPSEEK_BETA: &str = "/beta/chat/completions";

impl ProviderClient {
    /// The same provider, its keys and its connections, for a request that continues in this style.
    #[must_use]
    pub fn continuing(&self, style: PrefillStyle) -> Self {
        match prefix_url(self.address.url(), style) {
            Some(url) => Self { address: url.into(), ..self.clone() },
            None => self.clone(),
        }
    }
}

/// `None`: where answers are made. Others that speak this style are asked there: a proxy's paths are its own.
fn prefix_url(answers: &Url, style: PrefillStyle) -> Option<Url> {
    let elsewhere = style == PrefillStyle::DeepseekPrefix && answers.host_str() == Some(DEEPSEEK);
    elsewhere.then(|| {
        let mut url = answers.clone();
        url.set_path(DEEPSEEK_BETA);
        url
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_deepseek_itself_takes_prefixes_elsewhere() {
        for (answers, style, asked) in [
            (
                "https://api.deepseek.com/v1/chat/completions",
                PrefillStyle::DeepseekPrefix,
                Some("https://api.deepseek.com/beta/chat/completions"),
            ),
            ("https://api.deepseek.com/chat/completions", PrefillStyle::Assistant, None),
            ("https://proxy.example/v1/chat/completions", PrefillStyle::DeepseekPrefix, None),
        ] {
            let elsewhere = prefix_url(&Url::parse(answers).unwrap(), style);
            assert_eq!(elsewhere.as_ref().map(Url::as_str), asked);
        }
    }
}
