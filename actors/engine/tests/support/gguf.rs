//! Model files for tests: the default model with more metadata, and a made-up BERT small enough to be made on the spot.
//! Its weights are noise, so its vectors mean nothing; they only must be the same every time.

use std::{
    fs,
    path::{Path, PathBuf},
};

const ALIGNMENT: usize = 32;

/// A file that goes with its value.
pub(crate) struct Made(PathBuf);

impl Made {
    fn write(name: &str, bytes: &[u8]) -> Self {
        let path = std::env::temp_dir().join(format!("spillway-engine-test-{}-{name}.gguf", std::process::id()));
        fs::write(&path, bytes).expect("the temporary folder takes files");
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

enum Value {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(&'static str),
    Texts(Vec<String>),
    I32s(Vec<i32>),
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn put(out: &mut Vec<u8>, key: &str, value: &Value) {
    text(out, key);
    let kind = |out: &mut Vec<u8>, kind: u32| out.extend(kind.to_le_bytes());
    match value {
        Value::U32(number) => {
            kind(out, 4);
            out.extend(number.to_le_bytes());
        }
        Value::F32(number) => {
            kind(out, 6);
            out.extend(number.to_le_bytes());
        }
        Value::Bool(flag) => {
            kind(out, 7);
            out.push(u8::from(*flag));
        }
        Value::Text(words) => {
            kind(out, 8);
            text(out, words);
        }
        Value::Texts(texts) => {
            kind(out, 9);
            kind(out, 8);
            out.extend((texts.len() as u64).to_le_bytes());
            texts.iter().for_each(|words| text(out, words));
        }
        Value::I32s(numbers) => {
            kind(out, 9);
            kind(out, 5);
            out.extend((numbers.len() as u64).to_le_bytes());
            numbers.iter().for_each(|number| out.extend(number.to_le_bytes()));
        }
    }
}

struct Reader<'a>(&'a [u8], usize);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let bytes = self.0[self.1..self.1 + N].try_into().unwrap();
        self.1 += N;
        bytes
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    fn skip_text(&mut self) {
        let len = self.u64() as usize;
        self.1 += len;
    }

    fn skip_value(&mut self, kind: u32) {
        match kind {
            0 | 1 | 7 => self.1 += 1,
            2 | 3 => self.1 += 2,
            4..=6 => self.1 += 4,
            10..=12 => self.1 += 8,
            8 => self.skip_text(),
            9 => {
                let (inner, count) = (self.u32(), self.u64());
                (0..count).for_each(|_| self.skip_value(inner));
            }
            other => panic!("value of kind {other}"),
        }
    }
}

/// The model at `path`, said to have tokens of these ids for a text between two others.
pub(crate) fn with_infill(path: &Path, [before, after, middle]: [u32; 3]) -> Made {
    let bytes = fs::read(path).expect("the model is there");
    let mut reader = Reader(&bytes, 0);
    assert_eq!((&reader.take::<4>(), reader.u32()), (b"GGUF", 3));
    let (tensors, keys) = (reader.u64(), reader.u64());
    let keys_at = reader.1;
    for _ in 0..keys {
        reader.skip_text();
        let kind = reader.u32();
        reader.skip_value(kind);
    }
    let tensors_at = reader.1;
    for _ in 0..tensors {
        reader.skip_text();
        let dimensions = reader.u32() as usize;
        reader.1 += dimensions * 8 + 4 + 8;
    }
    let mut out = b"GGUF".to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend(tensors.to_le_bytes());
    out.extend((keys + 3).to_le_bytes());
    out.extend(&bytes[keys_at..tensors_at]);
    for (name, id) in [("pre", before), ("suf", after), ("mid", middle)] {
        put(&mut out, &format!("tokenizer.ggml.fim_{name}_token_id"), &Value::U32(id));
    }
    out.extend(&bytes[tensors_at..reader.1]);
    out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
    out.extend(&bytes[reader.1.next_multiple_of(ALIGNMENT)..]);
    Made::write("infill", &out)
}

const WIDTH: usize = 32;
const INNER: usize = 64;
const CONTEXT: usize = 64;
/// The words that the made-up BERT knows.
pub(crate) const WORDS: [&str; 8] = ["cat", "dog", "ship", "storm", "sea", "house", "light", "night"];

/// One layer, four heads; pooled as GGUF's number says.
pub(crate) fn bert(pooling: u32) -> Made {
    let mut words: Vec<String> = (0..100).map(|n| format!("[unused{n}]")).collect();
    words.extend(["[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(str::to_owned));
    words.extend(WORDS.map(|word| format!("\u{2581}{word}")));
    let kinds = (0..words.len()).map(|at| if at < 104 { 3 } else { 1 }).collect();
    let vocabulary = words.len();
    let keys = [
        ("general.architecture", Value::Text("bert")),
        ("general.name", Value::Text("made-up bert")),
        ("bert.context_length", Value::U32(CONTEXT as u32)),
        ("bert.embedding_length", Value::U32(WIDTH as u32)),
        ("bert.feed_forward_length", Value::U32(INNER as u32)),
        ("bert.block_count", Value::U32(1)),
        ("bert.attention.head_count", Value::U32(4)),
        ("bert.attention.layer_norm_epsilon", Value::F32(1e-6)),
        ("bert.attention.causal", Value::Bool(false)),
        ("bert.pooling_type", Value::U32(pooling)),
        ("tokenizer.ggml.model", Value::Text("bert")),
        ("tokenizer.ggml.tokens", Value::Texts(words)),
        ("tokenizer.ggml.token_type", Value::I32s(kinds)),
        ("tokenizer.ggml.token_type_count", Value::U32(2)),
    ];
    let layer = |name: &str| format!("blk.0.{name}");
    let mut tensors: Vec<(String, Vec<usize>)> = vec![
        ("token_embd.weight".into(), vec![WIDTH, vocabulary]),
        ("token_types.weight".into(), vec![WIDTH, 2]),
        ("position_embd.weight".into(), vec![WIDTH, CONTEXT]),
        ("token_embd_norm.weight".into(), vec![WIDTH]),
        ("token_embd_norm.bias".into(), vec![WIDTH]),
    ];
    for (name, inner, outer) in [
        ("attn_q", WIDTH, WIDTH),
        ("attn_k", WIDTH, WIDTH),
        ("attn_v", WIDTH, WIDTH),
        ("attn_output", WIDTH, WIDTH),
        ("ffn_up", WIDTH, INNER),
        ("ffn_down", INNER, WIDTH),
    ] {
        tensors.push((layer(&format!("{name}.weight")), vec![inner, outer]));
        tensors.push((layer(&format!("{name}.bias")), vec![outer]));
    }
    for name in ["attn_output_norm", "layer_output_norm"] {
        tensors.push((layer(&format!("{name}.weight")), vec![WIDTH]));
        tensors.push((layer(&format!("{name}.bias")), vec![WIDTH]));
    }
    let mut out = b"GGUF".to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((keys.len() as u64).to_le_bytes());
    keys.iter().for_each(|(key, value)| put(&mut out, key, value));
    let mut offset = 0;
    for (name, shape) in &tensors {
        text(&mut out, name);
        out.extend((shape.len() as u32).to_le_bytes());
        shape.iter().for_each(|length| out.extend((*length as u64).to_le_bytes()));
        // 32-bit floats.
        out.extend(0u32.to_le_bytes());
        out.extend((offset as u64).to_le_bytes());
        offset += (shape.iter().product::<usize>() * 4).next_multiple_of(ALIGNMENT);
    }
    let mut noise = 1u32;
    for (name, shape) in &tensors {
        out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
        for _ in 0..shape.iter().product::<usize>() {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let number = if name.ends_with("norm.weight") { 1.0 } else { (noise >> 8) as f32 / (1 << 24) as f32 - 0.5 };
            out.extend(number.to_le_bytes());
        }
    }
    out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
    Made::write(&format!("bert-{pooling}"), &out)
}
