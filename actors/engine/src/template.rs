//! Renders chat messages with the model's own template, as its authors' Python would.
//!
//! Jinja in the dialect of Hugging Face's `apply_chat_template`: blocks trimmed, Python's methods on strings and dicts,
//! `raise_exception`, `strftime_now` (in UTC), `tojson` with Python's spacing. A template comes from a model file and is
//! not trusted: it has fuel, not time. Failures never quote the messages.

pub mod fence;
pub mod traits;

use crate::{job::failure, strftime::strftime};
use fence::{Fence, Part};
use minijinja::{
    Environment, Error, ErrorKind, Value, context,
    syntax::SyntaxConfig,
    value::{Kwargs, ValueKind},
};
use serde::Serialize;
use spillway_actors::gpu::frame::{JobFailure, JobFailureKind};
use std::time::{SystemTime, UNIX_EPOCH};

/// Template instructions one rendering may take: thousands of messages fit, an endless loop does not.
const FUEL: u64 = 5_000_000;

const NAME: &str = "chat";

/// For models whose file has no template.
const CHATML: &str = "{%- for message in messages -%}\
{{- '<|im_start|>' + message['role'] + '\n' + (message['content'] or '') + '<|im_end|>\n' -}}\
{%- endfor -%}\
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}";

/// A model's template, compiled once.
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    bos: String,
    eos: String,
    fence: Fence,
}

impl ChatTemplate {
    /// `source`: the file's template, or `None` for ChatML. An `Err` names the line that does not compile.
    pub fn new(source: Option<&str>, bos: &str, eos: &str) -> Result<Self, String> {
        let source = source.unwrap_or(CHATML).to_owned();
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| place(&error))?);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", |format: &str| strftime(format, now()));
        environment.add_filter("tojson", tojson);
        environment
            .add_template_owned(NAME, source.clone())
            .map_err(|error| format!("the chat template does not compile: {}", place(&error)))?;
        Ok(Self { environment, source, bos: bos.to_owned(), eos: eos.to_owned(), fence: Fence::new([]) })
    }

    /// Words in messages and tools that must not be read as control tokens.
    #[must_use]
    pub fn fenced(self, fence: Fence) -> Self {
        Self { fence, ..self }
    }

    /// What was rendered, by who wrote it.
    pub fn parts<'a>(&self, rendered: &'a str) -> Vec<Part<'a>> {
        self.fence.parts(rendered)
    }

    /// Renders `messages_json`, a JSON array, up to where the assistant speaks; with `tools_json`, one of tools, if there
    /// are any.
    pub fn render(&self, messages_json: &str, tools_json: Option<&str>) -> Result<String, JobFailure> {
        let tools = tools_json.map(|json| self.values(json)).transpose();
        let tools = tools.map_err(|_| failure(JobFailureKind::Invalid, "tools are not a JSON array"))?;
        let messages = self.values(messages_json).ok();
        let messages = messages.filter(|messages| messages.iter().all(|message| message.kind() == ValueKind::Map));
        let messages =
            messages.ok_or_else(|| failure(JobFailureKind::Invalid, "messages are not a JSON array of objects"))?;
        let template = self.environment.get_template(NAME).map_err(|error| self.refusal(&error))?;
        let rendered = template.render(context! {
            messages => messages,
            bos_token => self.bos.as_str(),
            eos_token => self.eos.as_str(),
            add_generation_prompt => true,
            tools => tools,
            documents => (),
        });
        rendered.map_err(|error| self.refusal(&error))
    }

    fn values(&self, json: &str) -> Result<Vec<Value>, serde_json::Error> {
        let mut values: Vec<serde_json::Value> = serde_json::from_str(json)?;
        values.iter_mut().for_each(|value| self.fence.guard(value));
        values.into_iter().map(serde_json::from_value).collect()
    }

    /// The template itself.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// A raised message is passed on only when it stands in the template as it is: anything else may quote a message.
    fn refusal(&self, error: &Error) -> JobFailure {
        let detail = error.detail().filter(|detail| !detail.is_empty() && self.source.contains(detail));
        let reason = detail.map_or_else(|| place(error), str::to_owned);
        failure(JobFailureKind::Invalid, format!("the model's chat template refuses these messages: {reason}"))
    }
}

/// What went wrong where, without any value.
fn place(error: &Error) -> String {
    match error.line() {
        Some(line) => format!("{} in line {line}", kind_text(error.kind())),
        None => kind_text(error.kind()),
    }
}

fn kind_text(kind: ErrorKind) -> String {
    kind.to_string()
}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// `json.dumps(value, ensure_ascii=False, indent=indent)`; other arguments of Python's are accepted and ignored.
fn tojson(value: &Value, indent: Option<usize>, options: Kwargs) -> Result<Value, Error> {
    let indent = indent.or(options.get::<Option<usize>>("indent")?);
    for ignored in ["ensure_ascii", "separators", "sort_keys"] {
        let _ = options.get::<Option<Value>>(ignored)?;
    }
    options.assert_all_used()?;
    let mut bytes = Vec::new();
    let outcome = match indent {
        Some(width) => {
            let indent = vec![b' '; width.min(16)];
            let formatter = serde_json::ser::PrettyFormatter::with_indent(&indent);
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, formatter))
        }
        None => value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, PythonSpacing)),
    };
    outcome.map_err(|_| Error::new(ErrorKind::BadSerialization, "value is not JSON"))?;
    Ok(Value::from_safe_string(String::from_utf8_lossy(&bytes).into_owned()))
}

/// `", "` and `": "`, as Python writes JSON by default.
struct PythonSpacing;

impl serde_json::ser::Formatter for PythonSpacing {
    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGES: &str = r#"[{"role":"system","content":"Be brief."},{"role":"user","content":"Hi <b>"}]"#;

    fn render(source: &str, messages: &str) -> Result<String, String> {
        let template = ChatTemplate::new(Some(source), "<s>", "</s>").unwrap();
        template.render(messages, None).map_err(|failure| failure.message)
    }

    #[test]
    fn without_a_template_chatml_is_spoken() {
        let text = ChatTemplate::new(None, "", "").unwrap().render(MESSAGES, None).unwrap();
        let expected =
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi <b><|im_end|>\n<|im_start|>assistant\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn python_methods_special_tokens_and_loop_controls_work() {
        let source = "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}\n{{ m['content'].strip().startswith('Hi') }}{% endfor %}{{ eos_token }}";
        assert_eq!(render(source, MESSAGES).unwrap().replace("True", "true"), "<s>true</s>");
    }

    #[test]
    fn json_is_written_as_python_writes_it_and_not_escaped_for_html() {
        assert_eq!(render("{{ messages[1] | tojson }}", MESSAGES).unwrap(), r#"{"role": "user", "content": "Hi <b>"}"#);
        let indented = render("{{ messages[1] | tojson(indent=2) }}", MESSAGES).unwrap();
        assert_eq!(indented, "{\n  \"role\": \"user\",\n  \"content\": \"Hi <b>\"\n}");
    }

    #[test]
    fn tools_are_shown_to_templates_that_look_for_them() {
        let template =
            ChatTemplate::new(Some("{% if tools %}{{ tools[0].name }}{% else %}none{% endif %}"), "", "").unwrap();
        assert_eq!(template.render(MESSAGES, Some(r#"[{"name": "look"}]"#)).unwrap(), "look");
        assert_eq!(template.render(MESSAGES, None).unwrap(), "none");
        assert!(template.render(MESSAGES, Some("{}")).is_err());
    }

    #[test]
    fn the_time_can_be_asked_for() {
        assert_eq!(render("{{ strftime_now('%Y') | length }}", MESSAGES).unwrap(), "4");
    }

    #[test]
    fn a_raised_message_of_the_templates_own_words_is_passed_on() {
        let error = render("{{ raise_exception('System role not supported') }}", MESSAGES).unwrap_err();
        assert!(error.ends_with("System role not supported"), "{error}");
    }

    #[test]
    fn a_failure_never_quotes_the_messages() {
        for source in [
            "{{ raise_exception('no: ' ~ messages[0].content) }}",
            "{{ messages[0].content + 1 }}",
            "{{ messages[0].content.nope() }}",
        ] {
            let error = render(source, r#"[{"role":"user","content":"secret-words"}]"#).unwrap_err();
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn an_endless_template_runs_out_of_fuel() {
        let source = "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}";
        assert!(render(source, MESSAGES).unwrap_err().contains("fuel"));
    }

    #[test]
    fn what_is_no_array_of_objects_is_refused() {
        for messages in ["{}", "[1]", "not json", "\"[]\""] {
            assert!(render("x", messages).is_err(), "{messages}");
        }
    }

    #[test]
    fn a_template_that_does_not_compile_names_its_line() {
        let Err(error) = ChatTemplate::new(Some("a\n{% if %}"), "", "") else { panic!("it compiled") };
        assert!(error.contains("line 2"), "{error}");
    }
}
