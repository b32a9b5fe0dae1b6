//! Small GGUF files made in memory, for tests.

/// Metadata and tensors, written as the format wants them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sample {
    pairs: Vec<Vec<u8>>,
    tensors: Vec<(String, Vec<u64>, u32, u64)>,
    /// Bytes of tensor data.
    data: u64,
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

impl Sample {
    /// A model of two layers: 4 heads of 16 numbers, 2 of them kept, in F16.
    pub(crate) fn tiny() -> Self {
        let sample = Self::default()
            .text("general.architecture", "llama")
            .text("general.name", "Tiny")
            .number("general.file_type", 1)
            .number("llama.block_count", 2)
            .number("llama.context_length", 4096)
            .number("llama.embedding_length", 64)
            .number("llama.feed_forward_length", 128)
            .number("llama.attention.head_count", 4)
            .number("llama.attention.head_count_kv", 2)
            .text("tokenizer.ggml.model", "gpt2")
            .texts("tokenizer.ggml.tokens", &["a", "b", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"])
            .text("tokenizer.chat_template", "{{ messages }}");
        sample
            .tensor("token_embd.weight", &[64, 100], 1, 2)
            .tensor("blk.0.attn_q.weight", &[64, 64], 1, 2)
            .tensor("blk.1.attn_q.weight", &[64, 64], 1, 2)
            .tensor("output.weight", &[64, 100], 1, 2)
    }

    fn pair(mut self, key: &str, kind: u32, value: &[u8]) -> Self {
        self.pairs.push([&text(key)[..], &kind.to_le_bytes(), value].concat());
        self
    }

    pub(crate) fn text(self, key: &str, value: &str) -> Self {
        self.pair(key, 8, &text(value))
    }

    pub(crate) fn number(self, key: &str, value: u32) -> Self {
        self.pair(key, 4, &value.to_le_bytes())
    }

    pub(crate) fn texts(self, key: &str, values: &[&str]) -> Self {
        let head = [&8_u32.to_le_bytes()[..], &(values.len() as u64).to_le_bytes()].concat();
        let body: Vec<u8> = values.iter().flat_map(|value| text(value)).collect();
        self.pair(key, 9, &[head, body].concat())
    }

    pub(crate) fn numbers(self, key: &str, values: &[u32]) -> Self {
        let head = [&4_u32.to_le_bytes()[..], &(values.len() as u64).to_le_bytes()].concat();
        let body: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.pair(key, 9, &[head, body].concat())
    }

    /// `width`: bytes of one element, for types that are not quantised.
    pub(crate) fn tensor(mut self, name: &str, extents: &[u64], kind: u32, width: u64) -> Self {
        self.tensors.push((name.to_owned(), extents.to_vec(), kind, self.data));
        self.data += extents.iter().product::<u64>() * width;
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend((self.pairs.len() as u64).to_le_bytes());
        bytes.extend(self.pairs.concat());
        for (name, extents, kind, offset) in &self.tensors {
            bytes.extend(text(name));
            bytes.extend((extents.len() as u32).to_le_bytes());
            bytes.extend(extents.iter().flat_map(|extent| extent.to_le_bytes()));
            bytes.extend(kind.to_le_bytes());
            bytes.extend(offset.to_le_bytes());
        }
        bytes.resize(bytes.len().next_multiple_of(32) + self.data as usize, 0);
        bytes
    }
}
