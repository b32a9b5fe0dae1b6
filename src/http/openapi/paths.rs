//! Every path with its operations. What is served under `/v1` is served without it too.

use super::{anthropic, chat, completion, embeddings, meta, responses, shared};
use utoipa::{
    ToSchema,
    openapi::{
        Components, ComponentsBuilder, ContentBuilder, HttpMethod, ObjectBuilder, OneOfBuilder, Paths, PathsBuilder,
        Ref, RefOr, Required, Response, ResponseBuilder, Schema, Type,
        path::{Operation, OperationBuilder, ParameterBuilder, ParameterIn, PathItem},
        request_body::RequestBodyBuilder,
        schema::SchemaType,
        security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityScheme},
    },
};

const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream";
/// How a key is shown: OpenAI's way and Anthropic's, at every endpoint.
pub(super) const KEYS: [&str; 2] = ["bearer", "api_key"];
/// Refusals that any request may meet, whatever it asks.
const REFUSALS: [(&str, &str); 9] = [
    ("400", "The request is malformed or out of range."),
    ("401", "The API key is missing or unknown."),
    ("403", "Not allowed: the key may not use the model, or a web page of another site asked."),
    ("404", "No such model."),
    ("408", "The upload took too long."),
    ("413", "The body is too large."),
    ("429", "Too many requests right now (with `retry-after`), or a spent budget (without)."),
    ("503", "Nothing can serve this now; `retry-after` says when to ask again."),
    ("default", "Any other failure, the target's among them."),
];

/// Collects the schemas that operations refer to.
#[derive(Default)]
struct Collector {
    schemas: Vec<(String, RefOr<Schema>)>,
}

impl Collector {
    /// A reference to the type's schema, which is kept with all that it refers to.
    fn of<T: ToSchema>(&mut self) -> Ref {
        self.schemas.push((T::name().into_owned(), T::schema()));
        T::schemas(&mut self.schemas);
        Ref::from_schema_name(T::name())
    }
}

/// One operation, under construction.
struct Draft {
    operation: OperationBuilder,
    refusal: Ref,
}

impl Draft {
    fn new(collector: &mut Collector, id: &str, tag: &str, summary: &str) -> Self {
        let operation = OperationBuilder::new().operation_id(Some(id)).tag(tag).summary(Some(summary));
        Self { operation, refusal: collector.of::<shared::ErrorReply>() }
    }

    fn in_anthropics_words(mut self, collector: &mut Collector) -> Self {
        self.refusal = collector.of::<anthropic::AnthropicErrorReply>();
        self
    }

    fn takes(mut self, body: Ref) -> Self {
        let content = ContentBuilder::new().schema(Some(body)).build();
        let body = RequestBodyBuilder::new().content(JSON, content).required(Some(Required::True)).build();
        self.operation = self.operation.request_body(Some(body));
        self
    }

    fn gives(mut self, status: &str, response: Response) -> Self {
        self.operation = self.operation.response(status, response);
        self
    }

    /// With every refusal that is not described yet.
    fn refuses(mut self) -> Operation {
        for (status, why) in REFUSALS {
            self.operation = self.operation.response(status, json(why, self.refusal.clone()));
        }
        self.operation.build()
    }
}

fn json(description: &str, schema: impl Into<RefOr<Schema>>) -> Response {
    ResponseBuilder::new()
        .description(description)
        .content(JSON, ContentBuilder::new().schema(Some(schema)).build())
        .build()
}

/// An answer that comes whole, or as events when the request says `stream`.
fn answer(description: &str, whole: Ref, event: &Ref) -> Response {
    // Some readers take the text as the value, some each event: the words say what no type could for both.
    let text = ObjectBuilder::new()
        .schema_type(SchemaType::AnyValue)
        .description(Some(format!("Server-sent events; the data of each is a {}.", event.ref_location)))
        .build();
    ResponseBuilder::new()
        .description(description)
        .content(JSON, ContentBuilder::new().schema(Some(whole)).build())
        .content(EVENTS, ContentBuilder::new().schema(Some(text)).build())
        .build()
}

/// All paths, and the schemas they use.
pub(super) fn all() -> (Paths, Components) {
    let mut collector = Collector::default();
    let mut paths = PathsBuilder::new();
    for (path, operation) in [
        ("/health", health(&mut collector)),
        ("/ready", ready(&mut collector)),
        ("/openapi.json", document(&mut collector)),
    ] {
        paths = paths.path(path, PathItem::new(HttpMethod::Get, operation));
    }
    for (path, method, operation) in served(&mut collector) {
        // An operation's name is unique in the document; the second path is the same operation all the same.
        let mut twin = operation.clone();
        twin.operation_id = twin.operation_id.map(|id| format!("{id}WithoutVersion"));
        paths = paths.path(format!("/v1{path}"), PathItem::new(method.clone(), operation));
        paths = paths.path(path, PathItem::new(method, twin));
    }
    let [bearer, api_key] = KEYS;
    let components = ComponentsBuilder::new()
        .schemas_from_iter(collector.schemas)
        .security_scheme(bearer, SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)))
        .security_scheme(api_key, SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("x-api-key"))))
        .build();
    (paths.build(), components)
}

fn served(c: &mut Collector) -> Vec<(&'static str, HttpMethod, Operation)> {
    vec![
        ("/chat/completions", HttpMethod::Post, chat_completions(c)),
        ("/completions", HttpMethod::Post, completions(c)),
        ("/embeddings", HttpMethod::Post, embeddings_(c)),
        ("/responses", HttpMethod::Post, responses_(c)),
        ("/messages", HttpMethod::Post, messages(c)),
        ("/messages/count_tokens", HttpMethod::Post, count_tokens(c)),
        ("/route", HttpMethod::Post, route(c)),
        ("/models", HttpMethod::Get, models(c)),
        ("/models/{id}", HttpMethod::Get, model(c)),
    ]
}

fn chat_completions(c: &mut Collector) -> Operation {
    let (body, whole, event) =
        (c.of::<chat::ChatCompletionRequest>(), c.of::<chat::ChatCompletion>(), c.of::<chat::ChatCompletionChunk>());
    c.of::<chat::ContentPart>();
    Draft::new(c, "createChatCompletion", "OpenAI", "A chat")
        .takes(body)
        .gives("200", answer("The answer", whole, &event))
        .refuses()
}

fn completions(c: &mut Collector) -> Operation {
    let (body, whole, event) = (
        c.of::<completion::CompletionRequest>(),
        c.of::<completion::Completion>(),
        c.of::<completion::CompletionChunk>(),
    );
    Draft::new(c, "createCompletion", "OpenAI", "A text to go on with")
        .takes(body)
        .gives("200", answer("How it goes on", whole, &event))
        .refuses()
}

fn embeddings_(c: &mut Collector) -> Operation {
    let (body, list) = (c.of::<embeddings::EmbeddingsRequest>(), c.of::<embeddings::Embeddings>());
    Draft::new(c, "createEmbeddings", "OpenAI", "Texts as vectors")
        .takes(body)
        .gives("200", json("One vector for each input", list))
        .refuses()
}

fn responses_(c: &mut Collector) -> Operation {
    let (body, whole, event) =
        (c.of::<responses::ResponsesRequest>(), c.of::<responses::Response>(), c.of::<responses::ResponseEvent>());
    c.of::<responses::InputItem>();
    c.of::<responses::InputPart>();
    Draft::new(c, "createResponse", "OpenAI", "A response; nothing is stored")
        .takes(body)
        .gives("200", answer("The response", whole, &event))
        .refuses()
}

fn messages(c: &mut Collector) -> Operation {
    let (body, whole, event) =
        (c.of::<anthropic::MessagesRequest>(), c.of::<anthropic::Message>(), c.of::<anthropic::MessageEvent>());
    c.of::<anthropic::TextBlock>();
    c.of::<anthropic::UserBlock>();
    c.of::<anthropic::ContentBlock>();
    Draft::new(c, "createMessage", "Anthropic", "A message")
        .in_anthropics_words(c)
        .takes(body)
        .gives("200", answer("The message", whole, &event))
        .refuses()
}

fn count_tokens(c: &mut Collector) -> Operation {
    let (body, counted) = (c.of::<anthropic::CountTokensRequest>(), c.of::<anthropic::TokensCounted>());
    let counted = json("The count; `x-spillway-token-count` says whether it is exact or estimated", counted);
    Draft::new(c, "countMessageTokens", "Anthropic", "How long a prompt is, nothing run")
        .in_anthropics_words(c)
        .takes(body)
        .gives("200", counted)
        .refuses()
}

fn route(c: &mut Collector) -> Operation {
    let (body, explained) = (c.of::<chat::ChatCompletionRequest>(), c.of::<meta::RouteExplanation>());
    Draft::new(c, "explainRoute", "Spillway", "Where a chat would go and why, nothing run")
        .takes(body)
        .gives("200", json("The decision", explained))
        .refuses()
}

/// Either API's form, by the request's `anthropic-version` header.
fn either(one: Ref, other: Ref) -> Schema {
    Schema::OneOf(OneOfBuilder::new().item(one).item(other).build())
}

fn models(c: &mut Collector) -> Operation {
    let list = either(c.of::<meta::Models>(), c.of::<anthropic::AnthropicModels>());
    let draft = with_version_header(Draft::new(c, "listModels", "OpenAI", "The names that requests may use"));
    either_refuses(c, draft.gives("200", json("The list", list)))
}

fn model(c: &mut Collector) -> Operation {
    let one = either(c.of::<meta::Model>(), c.of::<anthropic::AnthropicModel>());
    let mut draft = with_version_header(Draft::new(c, "getModel", "OpenAI", "One model"));
    let id = ParameterBuilder::new()
        .name("id")
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .description(Some("May hold slashes."))
        .schema(Some(shared::string()))
        .build();
    draft.operation = draft.operation.parameter(id);
    either_refuses(c, draft.gives("200", json("The model", one)))
}

fn with_version_header(mut draft: Draft) -> Draft {
    let version = ParameterBuilder::new()
        .name("anthropic-version")
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some("With it, the answer has Anthropic's form."))
        .schema(Some(shared::string()))
        .build();
    draft.operation = draft.operation.parameter(version);
    draft
}

fn either_refuses(c: &mut Collector, draft: Draft) -> Operation {
    let refusal = either(draft.refusal, c.of::<anthropic::AnthropicErrorReply>());
    let mut operation = draft.operation;
    for (status, why) in REFUSALS {
        operation = operation.response(status, json(why, refusal.clone()));
    }
    operation.build()
}

fn health(c: &mut Collector) -> Operation {
    let alive = c.of::<meta::Health>();
    Draft::new(c, "getHealth", "Spillway", "Whether the gateway is alive").gives("200", json("It is", alive)).refuses()
}

fn ready(c: &mut Collector) -> Operation {
    let ready = c.of::<meta::Readiness>();
    let draft = Draft::new(c, "getReadiness", "Spillway", "Whether a request sent now would be served")
        .gives("200", json("It would", ready.clone()));
    let mut operation = draft.refuses();
    operation.responses.responses.insert("503".to_owned(), json("It would not", ready).into());
    operation
}

fn document(c: &mut Collector) -> Operation {
    let any = ObjectBuilder::new().schema_type(Type::Object).build();
    Draft::new(c, "getOpenApi", "Spillway", "This document")
        .gives("200", json("An OpenAPI 3.1 document", Schema::Object(any)))
        .refuses()
}
