//! OpenAI's chat and completions, the dialect the gateway thinks in: nothing to translate, only to hand on; but for the
//! habit of some clients to mix a chat with the newer Responses API.

use super::{
    dialect::{self, Arrived},
    frames::Frames,
    parse,
    render::{self, Stamp},
    responses,
};
use http::HeaderMap;
use serde_json::{Map, Value};
use spillway_actors::{
    cloud::WholeAnswer,
    config::Config,
    domain::{ChatRequest, GatewayError},
    flight::{FlightReport, Head},
};

/// A body of `POST /v1/chat/completions`, whichever of OpenAI's two APIs it speaks. The answer is a chat's in any case.
///
/// # Errors
/// It is malformed or out of range.
pub(super) fn read_chat(
    arrived: Arrived,
    mut body: Map<String, Value>,
    headers: &HeaderMap,
    config: &Config,
) -> Result<ChatRequest, GatewayError> {
    let is_translated = responses::is_meant(&body);
    if is_translated {
        let usage = body.get("stream_options").cloned();
        body = responses::chat_body(body)?;
        body.extend(usage.map(|options| ("stream_options".to_owned(), options)));
    }
    responses::normalise_tools(&mut body);
    let read = if is_translated { parse::translated_chat } else { parse::chat_object };
    read(arrived.id, body, headers, config)
}

/// How one chat or completion is answered.
#[derive(Debug)]
pub(super) struct Voice {
    stamp: Stamp,
    include_usage: bool,
}

impl Voice {
    pub(super) fn of(request: &ChatRequest, arrived: Arrived) -> Self {
        let stamp = Stamp::new(request.kind, arrived.id, arrived.at);
        Self { stamp, include_usage: request.include_usage }
    }
}

impl dialect::Voice for Voice {
    fn whole(&self, answer: WholeAnswer, report: &FlightReport) -> Value {
        // Our own types: cannot fail.
        serde_json::to_value(render::whole(&self.stamp, answer, report)).unwrap_or_default()
    }

    fn written(&self, answer: WholeAnswer, report: &FlightReport) -> Vec<u8> {
        serde_json::to_vec(&render::whole(&self.stamp, answer, report)).unwrap_or_default()
    }

    fn stream(&self, head: &Head) -> Box<dyn dialect::Frames> {
        Box::new(Frames::new(&self.stamp, head, self.include_usage))
    }
}
