/* Chat formats against what the models' own Jinja templates give (rendered once with jinja2). */
#include "core/model/chat.h"
#include "tests/model/vocab_made.h"
#include "tests/support/harness.h"

#include <string.h>

typedef ht_chat_message message;

static const message question[] = {{"user", "Hi"}};
static const message dialogue[] = {{"system", " S "}, {"user", " a "}, {"assistant", "b"}, {"user", "c"}};
static const message thoughts[] = {{"system", "S"}, {"user", "Q"}, {"assistant", "<think>\nhmm\n</think>\n\n4"},
                                   {"user", "more"}, {"assistant", "<think>x</think>yes"}};

static void expect(ht_chat_format format, const char *system, const message *m, int n, bool open, const char *want)
{
    char out[1024], cut[9] = "????????";
    ht_error err = {0};
    int64_t len = ht_chat_render(format, system, m, n, open, out, sizeof out, &err);
    cr_assert(len >= 0, "%s: %s", ht_chat_name(format), err.text);
    out[len] = 0;
    cr_assert_str_eq(out, want, "%s:\n%s\n%s", ht_chat_name(format), out, want);
    cr_assert_eq(ht_chat_render(format, system, m, n, open, cut, 5, &err), len);
    size_t kept = len < 5 ? (size_t)len : 5;
    cr_assert(!memcmp(cut, want, kept) && cut[kept] == '?');
}

Test(chat, formats)
{
    expect(HT_CHAT_CHATML, "Be good", question, 1, true,
           "<|im_start|>system\nBe good<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
    expect(HT_CHAT_QWEN, NULL, dialogue, 4, false,
           "<|im_start|>system\n S <|im_end|>\n<|im_start|>user\n a <|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"
           "<|im_start|>user\nc<|im_end|>\n");
    expect(HT_CHAT_QWEN3, NULL, thoughts, 5, false,
           "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n4<|im_end|>\n"
           "<|im_start|>user\nmore<|im_end|>\n<|im_start|>assistant\n<think>\nx\n</think>\n\nyes<|im_end|>\n");
    expect(HT_CHAT_LLAMA3, NULL, dialogue, 4, true,
           "<|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|><|start_header_id|>user<|end_header_id|>\n\na"
           "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nb<|eot_id|><|start_header_id|>user"
           "<|end_header_id|>\n\nc<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n");
    expect(HT_CHAT_LLAMA31, NULL, question, 1, true,
           "<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
           "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>"
           "\n\n");
    expect(HT_CHAT_LLAMA31, NULL, dialogue, 4, false,
           "<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\nS"
           "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\na<|eot_id|><|start_header_id|>assistant<|end_header_id|>"
           "\n\nb<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nc<|eot_id|>");
    expect(HT_CHAT_QWEN3_THINKING, NULL, thoughts, 4, true,
           "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n4<|im_end|>\n"
           "<|im_start|>user\nmore<|im_end|>\n<|im_start|>assistant\n<think>\n");
    expect(HT_CHAT_LLAMA2, NULL, dialogue, 4, true,
           "[INST] <<SYS>>\n S \n<</SYS>>\n\n a [/INST] b </s><s>[INST] c [/INST]");
    expect(HT_CHAT_MISTRAL, NULL, dialogue, 4, true, "[INST]  S \n\n a  [/INST] b</s>[INST] c [/INST]");
    expect(HT_CHAT_MISTRAL_V01, NULL, dialogue, 4, true, "[INST]  S \n\n a  [/INST]b</s> [INST] c [/INST]");
    expect(HT_CHAT_MISTRAL_V02, NULL, dialogue, 4, true, "[INST]  S \n\n a  [/INST]b</s>[INST] c [/INST]");
    expect(HT_CHAT_MISTRAL_V1, NULL, dialogue, 4, true, " [INST]  S \n\n a  [/INST] b</s> [INST] c [/INST]");
    expect(HT_CHAT_PHI3, NULL, dialogue, 4, true,
           "<|system|>\n S <|end|>\n<|user|>\n a <|end|>\n<|assistant|>\nb<|end|>\n<|user|>\nc<|end|>\n<|assistant|>\n");
    expect(HT_CHAT_GEMMA, NULL, dialogue + 1, 3, true,
           "<start_of_turn>user\na<end_of_turn>\n<start_of_turn>model\nb<end_of_turn>\n<start_of_turn>user\nc"
           "<end_of_turn>\n<start_of_turn>model\n");
    expect(HT_CHAT_MISTRAL_V3, NULL, dialogue, 4, true, "[INST]  a [/INST] b</s>[INST]  S \n\nc[/INST]");
    expect(HT_CHAT_MISTRAL_TEKKEN, NULL, dialogue, 4, true, "[INST] a [/INST]b</s>[INST] S \n\nc[/INST]");
    expect(HT_CHAT_MISTRAL_V7, NULL, dialogue, 4, true,
           "[SYSTEM_PROMPT] S [/SYSTEM_PROMPT][INST] a [/INST]b</s>[INST]c[/INST]");
    expect(HT_CHAT_PHI4, NULL, dialogue, 4, true,
           "<|im_start|>system<|im_sep|> S <|im_end|><|im_start|>user<|im_sep|> a <|im_end|><|im_start|>assistant<|im_sep|>b"
           "<|im_end|><|im_start|>user<|im_sep|>c<|im_end|><|im_start|>assistant<|im_sep|>");
    expect(HT_CHAT_PHI4_MINI, NULL, dialogue, 4, true,
           "<|system|> S <|end|><|user|> a <|end|><|assistant|>b<|end|><|user|>c<|end|><|assistant|>");
    expect(HT_CHAT_DEEPSEEK_CODER, NULL, question, 1, true,
           "You are an AI programming assistant, utilizing the Deepseek Coder model, developed by Deepseek Company, and you "
           "only answer questions related to computer science. For politically sensitive questions, security and privacy "
           "issues, and other non-computer science questions, you will refuse to answer\n### Instruction:\nHi\n### Response:\n");
    expect(HT_CHAT_DEEPSEEK_CODER, NULL, dialogue, 4, true,
           " S ### Instruction:\n a \n### Response:\nb\n<|EOT|>\n### Instruction:\nc\n### Response:\n");
    expect(HT_CHAT_STARCODER2, NULL, dialogue + 1, 3, true,
           "You are an exceptionally intelligent coding assistant that consistently delivers accurate and reliable responses "
           "to user instructions.\n\n### Instruction\n a \n\n### Response\nb<|endoftext|>\n\n### Instruction\nc\n\n"
           "### Response\n");
    expect(HT_CHAT_NONE, NULL, question, 1, true, "Hi");
}

/* In every format the quotes are the messages' words, whole or trimmed, and nothing else. */
Test(chat, quotes_are_what_messages_say)
{
    static const message all[] = {{"system", "SSS"}, {"user", " AAA "}, {"assistant", "<think>TTT</think>BBB"}, {"user", "CCC"},
                                  {"assistant", "<think>TTT</think>DDD"}};
    for (int f = HT_CHAT_NONE; f < HT_CHAT_FORMATS; f++) {
        char out[1024], seen[256] = "";
        ht_text_span spans[11];
        ht_chat_quotes quotes = {.spans = spans};
        int m = f == HT_CHAT_QWEN3 || f == HT_CHAT_QWEN3_THINKING ? 5 : 4; /* these keep thoughts, of the last answer */
        int first = f == HT_CHAT_STARCODER2; /* which has no system message */
        int64_t n = ht_chat_render_quoted((ht_chat_format)f, NULL, all + first, m - first, true, out, sizeof out, &quotes,
                                          NULL);
        cr_assert(n > 0 && quotes.n > 0 && quotes.n <= 11, "%s", ht_chat_name((ht_chat_format)f));
        size_t end = 0;
        for (int i = 0; i < quotes.n; i++) {
            cr_assert(spans[i].begin >= end && spans[i].end > spans[i].begin && spans[i].end <= (size_t)n);
            end = spans[i].end;
            strncat(seen, out + spans[i].begin, end - spans[i].begin);
        }
        for (const char *s = (m == 5 ? "SABCTD" : "SABC") + first; *s; s++)
            cr_expect(strchr(seen, *s), "%s: %s", ht_chat_name((ht_chat_format)f), seen);
        cr_expect(!strstr(seen, "INST]") && !strstr(seen, "<|") && !strstr(seen, "turn>") && !strstr(seen, "</s>"), "%s", seen);
    }
}

Test(chat, roles_without_a_place_are_named)
{
    static const message twice[] = {{"user", "a"}, {"user", "b"}};
    static const message tool[] = {{"user", "a"}, {"tool", "b"}};
    static const message alone[] = {{"system", "a"}};
    char out[256];
    ht_error err = {0};
    cr_assert_eq(ht_chat_render(HT_CHAT_MISTRAL, NULL, twice, 2, true, out, 256, &err), -EINVAL);
    cr_assert(strstr(err.text, "message 2") && strstr(err.text, "mistral"), "%s", err.text);
    cr_assert_eq(ht_chat_render(HT_CHAT_CHATML, NULL, tool, 2, true, out, 256, &err), -EINVAL);
    cr_assert(strstr(err.text, "'tool'"), "%s", err.text);
    cr_assert_eq(ht_chat_render(HT_CHAT_GEMMA, NULL, alone, 1, true, out, 256, &err), -EINVAL);
    cr_assert(strstr(err.text, "'system'"), "%s", err.text);
    cr_assert_eq(ht_chat_render(HT_CHAT_STARCODER2, NULL, dialogue, 4, true, out, 256, &err), -EINVAL);
    cr_assert(strstr(err.text, "message 1") && strstr(err.text, "'system'"), "%s", err.text);
    static const message late[] = {{"user", "a"}, {"system", "b"}};
    cr_assert_eq(ht_chat_render(HT_CHAT_DEEPSEEK_CODER, NULL, late, 2, true, out, 256, &err), -EINVAL);
    cr_assert(strstr(err.text, "message 2"), "%s", err.text);
    cr_assert_eq(ht_chat_render((ht_chat_format)99, NULL, twice, 1, true, out, 256, &err), -EINVAL);
}

Test(chat, names_and_marks)
{
    static const struct { const char *source; ht_chat_format format; } cases[] = {
        {"{{'<|im_start|>' + message['role']}}", HT_CHAT_CHATML},
        {"<|im_start|>system\nYou are Qwen", HT_CHAT_QWEN},
        {"<|im_start|> content.split('</think>')", HT_CHAT_QWEN3},
        {"'<|start_header_id|>' + message['role']", HT_CHAT_LLAMA3},
        {"'[INST] <<SYS>>' '[/INST]'", HT_CHAT_LLAMA2},
        {"'[INST] ' + content + ' [/INST]' ' ' + message['content']", HT_CHAT_MISTRAL},
        {"'[INST] ' + content + ' [/INST]' message['content'] + eos_token + ' '", HT_CHAT_MISTRAL_V01},
        {"'[INST] ' + content + ' [/INST]' message['content'] + eos_token", HT_CHAT_MISTRAL_V02},
        {"' [INST] ' + content + ' [/INST]' ' ' + message['content']", HT_CHAT_MISTRAL_V1},
        {"'<|user|>' '<|end|>' '<|assistant|>'", HT_CHAT_PHI3},
        {"<start_of_turn>", HT_CHAT_GEMMA},
        {"\"[AVAILABLE_TOOLS][\" \"[INST]\" + m \"[/INST]\"", HT_CHAT_MISTRAL_TEKKEN},
        {"\"[AVAILABLE_TOOLS] [\" \"[INST] \" + m \"[/INST]\"", HT_CHAT_MISTRAL_V3},
        {"'[INST] ' + message['content'] + '[/INST]'", HT_CHAT_MISTRAL_V3}, /* v0.3 as it was first published */
        {"'[SYSTEM_PROMPT]' + s '[INST]' + m '[/INST]'", HT_CHAT_MISTRAL_V7},
        {"'<|im_start|>user<|im_sep|>' + m", HT_CHAT_PHI4},
        {"'<|' + message['role'] + '|>' + m + '<|end|>' '<|assistant|>'", HT_CHAT_PHI4_MINI},
        {"'<|' + message['role'] + '|>' + '\n' + m + '<|end|>' '<|assistant|>'", HT_CHAT_PHI3}, /* phi-3-small */
        {"'<|' + message['role'] + '|>' + '\\n' + m + '<|end|>' '<|assistant|>'", HT_CHAT_PHI3},
        {"'<|start_header_id|>' 'Cutting Knowledge Date: December 2023\\n' 'Today Date: ' + d", HT_CHAT_LLAMA31},
        {"'<|im_start|>assistant\\n<think>\\n' content.split('</think>')", HT_CHAT_QWEN3_THINKING},
        {"'<|im_start|>assistant\n<think>\n'", HT_CHAT_QWEN3_THINKING},
        {"'you will refuse to answer\n' '### Instruction:\n' '### Response:'", HT_CHAT_DEEPSEEK_CODER},
        {"'You are an exceptionally intelligent coding assistant' '### Instruction\\n'", HT_CHAT_STARCODER2},
    };
    ht_chat_format format;
    ht_error err = {0};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cr_assert_eq(ht_chat_detect(cases[i].source, &format, &err), 0);
        cr_assert_eq(format, cases[i].format, "%s", cases[i].source);
        cr_assert_eq(ht_chat_by_name(ht_chat_name(format), &format, &err), 0);
        cr_assert_eq(format, cases[i].format);
    }
    static const char *const unknown[] = {
        "{{ messages }}", "<|im_start|>system ## Metadata", /* smollm-3's own */
        "[gMASK]<sop><|user|><|assistant|>", "<|start|>user<|message|><|end|>", "'[INST] ' + m + ' [RESP] '",
        "'<|im_start|>assistant\\n' '<think>\\n' '</think>'",        /* qwen-3.5 */
        "<|im_start|>system<|im_sep|>You are Phi, a",              /* phi-4-reasoning */
        "'<|system|>Your name is Phi' '<|' + message['role'] + '|>' '<|end|>' '<|assistant|>'",
        "'[SYSTEM_PROMPT] ' + s '[INST] ' + m '[/INST]'",          /* mistral-large's v7 */
        "'<|start_header_id|>' 'Cutting Knowledge Date: December 2023'", /* functionary */
        "<|im_start|>system You are a function calling AI model",  /* hermes for tools */
    };
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) {
        cr_assert_eq(ht_chat_detect(unknown[i], &format, &err), -ENOTSUP, "%s: %s", unknown[i], ht_chat_name(format));
        cr_assert(strstr(err.text, "--chat-template") && strstr(err.text, "chatml"), "%s", err.text);
    }
    cr_assert_eq(ht_chat_by_name("klingon", &format, &err), -EINVAL);
    cr_assert(strstr(err.text, "klingon") && strstr(err.text, "llama-3"), "%s", err.text);
}

Test(chat, default_system_message)
{
    char out[64];
    cr_assert_eq(ht_chat_default_system("{{ '<|im_start|>system\nBe kind<|im_end|>\n' }}", out, sizeof out), 7);
    cr_assert_str_eq(out, "Be kind");
    cr_assert_eq(ht_chat_default_system("{{- '<|im_start|>system\\n' }} m <|im_end|> {{- '<|im_start|>system\\nIt\\'s "
                                        "me\\n<|im_end|>'}}", out, sizeof out), 8);
    cr_assert_str_eq(out, "It's me\n");
    cr_assert_eq(ht_chat_default_system("'<|im_start|>system\\n' + message['content'] + '<|im_end|>'", out, 64), 0);
    cr_assert_str_eq(out, "");
    cr_assert_eq(ht_chat_default_system("<|im_start|>system\nlong text<|im_end|>", out, 5), 9);
    cr_assert_str_eq(out, "long");
    cr_assert_eq(ht_chat_default_system("<|im_start|>system\nnever closed", out, 64), 0);
    cr_assert(ht_chat_hides_system("{%- set default_system_message = 'You are Mistral'"));
    cr_assert(ht_chat_hides_system("{%- set system_message = 'You are'"));
    cr_assert(!ht_chat_hides_system("{%- set system_message = \"\" %}{%- set system_message = messages[0]['content']|trim"));
    cr_assert(!ht_chat_hides_system("{% elif false == true %}{% set system_message = 'You are'"));
}

Test(chat, a_default_system_message_that_is_hidden_must_be_given)
{
    static const message both[] = {{"system", "S"}, {"user", "Hi"}};
    static const char source[] = "{%- set default_system_message = 'You are' + today %}'[SYSTEM_PROMPT]' '[INST]' '[/INST]'";
    made_vocab m;
    ht_tokenizer *t = NULL;
    char out[256];
    ht_error err = {0};
    make_vocab(&m);
    m.values[7].string = made_text(source);
    cr_assert_eq(ht_tokenizer_from_gguf(&t, &m.gguf, &err), 0, "%s", err.text);
    ht_chat_prompt prompt = {.messages = question, .n = 1, .open_answer = true};
    cr_assert_eq(ht_chat_prompt_render(t, &prompt, out, sizeof out, &err), -ENOTSUP);
    cr_assert(strstr(err.text, "-sys") && strstr(err.text, "--chat-template mistral-v7"), "%s", err.text);
    prompt.format = "mistral-v7";
    cr_assert_gt(ht_chat_prompt_render(t, &prompt, out, sizeof out, &err), 0);
    prompt = (ht_chat_prompt){.messages = both, .n = 2, .open_answer = true};
    cr_assert_gt(ht_chat_prompt_render(t, &prompt, out, sizeof out, &err), 0);
    ht_tokenizer_close(&t);
}

Test(chat, bos_comes_from_the_template_too)
{
    static const struct { const char *source, *format; int32_t first; } cases[] = {
        {"{{bos_token}}<|im_start|>", NULL, 260}, {"<|im_start|>", NULL, '<'}, {"<|im_start|>", "llama-3", 260},
        {"{{bos_token}}", "chatml", '<'}, /* a format that is named counts instead of the model's own */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        made_vocab m;
        ht_tokenizer *t = NULL;
        int32_t ids[256];
        ht_error err = {0};
        make_vocab(&m); /* its tokenizer adds no BOS by itself */
        m.values[7].string = made_text(cases[i].source);
        cr_assert_eq(ht_tokenizer_from_gguf(&t, &m.gguf, &err), 0, "%s", err.text);
        ht_chat_prompt prompt = {.format = cases[i].format, .messages = question, .n = 1, .open_answer = true};
        int64_t n = ht_chat_prompt_encode(t, &prompt, 0, ids, 256, &err);
        cr_assert(n > 1 && n <= 256, "%s", err.text);
        cr_assert_eq(ids[0], cases[i].first, "%d: %d", (int)i, ids[0]);
        n = ht_chat_prompt_encode(t, &prompt, 1, ids, 256, &err); /* from the second byte on there is none */
        cr_assert(n > 1 && ids[0] == '|', "%d: %d", (int)i, ids[0]);
        ht_tokenizer_close(&t);
    }
}
