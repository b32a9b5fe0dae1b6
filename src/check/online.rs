//! The asking: the provider's list, one short answer of each model, and its second half again for each prefill style.
//! Requests are made as the gateway makes them, so what works here works there.

use super::{
    prefill::{self, Verdict},
    report::{ModelReport, Report},
};
use crate::http::{parse, render::ms};
use bytes::Bytes;
use http::HeaderMap;
use secrecy::SecretString;
use serde_json::json;
use spillway_actors::{
    cloud::{self, Answer, Continuation, EventStream, Provider, ProviderClient},
    config::{CloudConfig, CloudModel, Config, ModelKind, PrefillStyle, Wire},
    domain::{ChatRequest, CloudBound, GatewayError, GenerationEvent, Input, NanoUsd, RequestId, RequestKind},
    upstream::OutputCap,
};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// One answer of a few tokens takes no longer.
const PATIENCE: Duration = Duration::from_secs(30);
/// One answer, and one continuation for each style.
const CALLS: u64 = 3;
/// The prompt and half an answer, generously.
const PROMPT_TOKENS: u64 = 100;

/// What one call came to.
#[derive(Default)]
struct Heard {
    text: String,
    first_token: Option<Duration>,
    usage: bool,
}

/// One model being asked.
struct Asked<'a> {
    client: &'a ProviderClient,
    wire: Wire,
    cap: OutputCap,
    key: &'a SecretString,
    model: &'a CloudModel,
    request: &'a ChatRequest,
}

/// The most that asking every model costs.
pub fn costs_at_most(config: &Config) -> NanoUsd {
    let usable = config.clouds.iter().filter(|cloud| cloud.is_usable());
    let cost = |model: &CloudModel| model.price.cost(CALLS * PROMPT_TOKENS, 0, CALLS * u64::from(prefill::MAX_TOKENS));
    usable.flat_map(|cloud| &cloud.models).map(cost).sum()
}

/// Asks every model that has a key, one after the other.
///
/// # Errors
/// A bug of ours: the question could not be made.
pub async fn ask_all(config: &Config) -> Result<Report, GatewayError> {
    let request = question(config)?;
    let mut report = Report { ok: true, ..Report::default() };
    for cloud in &config.clouds {
        match cloud.keys.first() {
            Some(key) => report.models.extend(ask_provider(cloud, key, &request).await?),
            None => report.not_asked.push(cloud.name.to_string()),
        }
    }
    report.ok = report.models.iter().all(|model| model.faults.is_empty());
    Ok(report)
}

fn question(config: &Config) -> Result<ChatRequest, GatewayError> {
    let body = json!({
        "messages": [{"role": "user", "content": prefill::PROMPT}], "temperature": 0, "max_tokens": prefill::MAX_TOKENS
    });
    parse::chat(RequestId::random(), body.to_string().as_bytes(), &HeaderMap::new(), config)
}

/// The same question where only texts are taken.
fn text_of(question: &ChatRequest) -> ChatRequest {
    let mut text = question.clone();
    text.body.shift_remove("messages");
    text.body.insert("prompt".to_owned(), prefill::PROMPT.into());
    ChatRequest { kind: RequestKind::Completion, input: Input::Text(prefill::PROMPT.to_owned()), ..text }
}

async fn ask_provider(
    cloud: &CloudConfig,
    key: &SecretString,
    request: &ChatRequest,
) -> Result<Vec<ModelReport>, GatewayError> {
    let provider = Provider::new(Arc::new(cloud.clone()))?;
    let list = provider.client().models(key).await;
    let text = text_of(request);
    let mut reports = Vec::with_capacity(cloud.models.len());
    for model in &cloud.models {
        let wire = model.wire(cloud.wire);
        let request = if wire == Wire::Text { &text } else { request };
        let cap = OutputCap { tokens: prefill::MAX_TOKENS, field: cloud.limit_field };
        let asked = Asked { client: &provider.client().clone().speaking(wire), wire, cap, key, model, request };
        let mut report = asked.report(cloud).await;
        match &list {
            Ok(ids) => report.listed = Some(ids.contains(&model.upstream)),
            Err(error) => report.notes.push(format!("the provider gave no list of models: {}", error.message)),
        }
        if report.listed == Some(false) {
            report.notes.push(format!("the provider's own list does not name `{}`", model.upstream));
        }
        reports.push(report);
    }
    Ok(reports)
}

impl Asked<'_> {
    async fn report(&self, cloud: &CloudConfig) -> ModelReport {
        let mut report = ModelReport {
            provider: cloud.name.to_string(),
            model: self.model.name.to_string(),
            upstream: self.model.upstream.clone(),
            listed: None,
            answers: false,
            usage: None,
            first_token_ms: None,
            prefill_configured: prefill::word(self.model.prefill),
            prefill_recommended: prefill::word(PrefillStyle::None),
            prefill_found: Verdict::Untried,
            faults: Vec::new(),
            notes: Vec::new(),
        };
        if self.model.kind == ModelKind::Embedding {
            match self.vector().await {
                Ok(told) => {
                    (report.answers, report.usage) = (true, Some(told));
                    if !told {
                        report.notes.push("it tells no usage: tokens will be estimated".to_owned());
                    }
                }
                Err(error) => report.faults.push(error.message),
            }
            return report;
        }
        match self.answer().await {
            Ok(heard) => {
                report.answers = true;
                report.usage = Some(heard.usage);
                report.first_token_ms = heard.first_token.map(ms);
                if !heard.usage {
                    report.notes.push("it tells no usage: tokens will be estimated".to_owned());
                }
                self.try_prefill(&heard.text, &mut report).await;
            }
            Err(error) => report.faults.push(error.message),
        }
        report
    }

    async fn try_prefill(&self, answer: &str, report: &mut ModelReport) {
        if self.wire == Wire::Text {
            return self.judge_configured(report, &[]);
        }
        let Some((given, due)) = prefill::halves(answer) else {
            report.notes.push("its answer was too short to try a prefix".to_owned());
            return self.judge_configured(report, &[]);
        };
        let styles: &[PrefillStyle] = match self.wire {
            Wire::OpenAi => &[PrefillStyle::Assistant, PrefillStyle::DeepseekPrefix],
            Wire::Anthropic => &[PrefillStyle::Assistant],
            Wire::Text => &[],
        };
        let mut found = Vec::new();
        for style in styles {
            let verdict = match self.continuation(given, *style).await {
                Ok(heard) => prefill::judge(given, due, &heard.text),
                Err(_) => Verdict::Rejected,
            };
            found.push((*style, verdict));
            if verdict == Verdict::Honoured && *style == self.model.prefill {
                break;
            }
        }
        self.judge_configured(report, &found);
    }

    /// The configured style if it works, else the first that does.
    fn judge_configured(&self, report: &mut ModelReport, found: &[(PrefillStyle, Verdict)]) {
        let honoured = |style: PrefillStyle| found.contains(&(style, Verdict::Honoured));
        let first = found.iter().find(|(_, verdict)| *verdict == Verdict::Honoured).or(found.first());
        report.prefill_found = first.map_or(Verdict::Untried, |(_, verdict)| *verdict);
        let configured = self.model.prefill;
        let recommended = if honoured(configured) {
            configured
        } else {
            found.iter().find(|(style, _)| honoured(*style)).map_or(PrefillStyle::None, |(style, _)| *style)
        };
        report.prefill_recommended = prefill::word(recommended);
        if configured != PrefillStyle::None && !found.is_empty() && !honoured(configured) {
            let word = prefill::word(configured);
            report
                .faults
                .push(format!("prefill_style is \"{word}\", which it does not honour: a cut answer would be torn"));
        }
    }

    async fn answer(&self) -> Result<Heard, GatewayError> {
        let bound = self.bound()?;
        let body = self.wire.body(bound, &self.model.upstream, self.cap, true)?;
        self.hear(self.client, body).await
    }

    async fn continuation(&self, given: &str, style: PrefillStyle) -> Result<Heard, GatewayError> {
        let nothing = || GatewayError::invalid(None, "there is nothing to continue");
        let continuation = Continuation::new(given, style).ok_or_else(nothing)?;
        let bound = self.bound()?;
        let body = self.wire.continued_body(bound, &self.model.upstream, self.cap, continuation)?;
        self.hear(&self.client.continuing(style), body).await
    }

    /// Whether it tells usage beside one vector.
    async fn vector(&self) -> Result<bool, GatewayError> {
        let body = json!({"model": self.model.upstream, "input": "hello", "encoding_format": "float"});
        let (body, until) = (Bytes::from(body.to_string()), Instant::now() + PATIENCE);
        let embedded = self.client.embed(body, RequestId::random(), self.key, 1, until).await?;
        Ok(embedded.usage.is_some())
    }

    fn bound(&self) -> Result<CloudBound<'_>, GatewayError> {
        CloudBound::new(self.request).ok_or_else(|| GatewayError::invalid(None, "the question may not leave"))
    }

    async fn hear(&self, client: &ProviderClient, body: Bytes) -> Result<Heard, GatewayError> {
        let began = Instant::now();
        let answer =
            client.start(body, RequestId::random(), self.key, cloud::Asked::by(self.request), began + PATIENCE).await?;
        match answer {
            Answer::Stream(events) => heard_stream(*events, began).await,
            Answer::Body(whole) => {
                let text = whole.choices.first().and_then(|choice| choice.message.get("content")?.as_str());
                let text = text.unwrap_or_default().to_owned();
                Ok(Heard { text, first_token: Some(began.elapsed()), usage: whole.usage.is_some() })
            }
        }
    }
}

async fn heard_stream(mut events: EventStream, began: Instant) -> Result<Heard, GatewayError> {
    let mut heard = Heard::default();
    while let Some(event) = events.next().await? {
        match event {
            GenerationEvent::Delta(delta) => {
                heard.first_token.get_or_insert_with(|| began.elapsed());
                heard.text.push_str(delta.content.as_deref().unwrap_or_default());
            }
            GenerationEvent::Usage(_) => heard.usage = true,
            GenerationEvent::Finish { .. } => {}
        }
    }
    Ok(heard)
}
