#include "topics.h"

#include <stddef.h>

const cli_topic cli_topics[] = {
    /* ---- schemes ---- */
    {"scheme", "w4a16", "int4,4bit", "4-bit weights, activations in floating point",
     "Each weight is one of 16 values, w = (code - zero) * scale, with a scale and a zero point "
     "for every group of columns "
     "(128 unless --group-size says otherwise). A group of 128 costs 4.16 bits a weight, one of 32 "
     "about 4.6.\n"
     "Decoding reads every weight once a token, so a quarter of the bytes is nearly four times the "
     "speed where memory is the "
     "limit. The quality depends on the method: without data (rtn) it is worst, awq and gptq "
     "calibrate.",
     "awq,gptq,--group-size,zero-point,padding"},
    {"scheme", "w8a16", "int8,8bit", "8-bit weights, activations in floating point",
     "As w4a16 with 256 values a weight. Hardly to be told from the original, at half of its "
     "bytes; the usual choice for the "
     "vision tower and for what is too sensitive for 4 bits.",
     "w4a16,--vision"},
    {"scheme", "w8a8", "smoothquant", "8-bit weights and 8-bit activations",
     "Weights are symmetric, one scale a row; the inputs of each linear are rounded to 8 bits as "
     "they come, one scale a token. "
     "Integer units can multiply both directly. A few input channels with large values would spoil "
     "the inputs' scale, so their "
     "size is moved into the weights first (SmoothQuant); how far is searched on the calibration "
     "data.\n"
     "Squint rounds as compressed-tensors defines it and multiplies in f32: the quality is the "
     "real one, the speed of integer "
     "products is not there.",
     "w4a8,calibration,compressed-tensors"},
    {"scheme", "w4a8", "a8w4dq,8da4w", "4-bit weights and 8-bit activations (A8W4DQ)",
     "What ExecuTorch and torchao run on phones: symmetric 4-bit groups (32 columns are usual), "
     "inputs rounded to 8 bits a "
     "token with a zero point. Stored as int-quantized, one byte a code.",
     "w8a8,--profile"},
    {"scheme", "keep", NULL, "as it is stored: not quantized",
     "For --vision and the parts of a profile. Embeddings, norms, biases, the patch embedding and "
     "the output head always keep "
     "their type.",
     "--vision,--profile"},

    /* ---- methods ---- */
    {"method", "rtn", "round-to-nearest", "round to nearest, without data",
     "The range of each group is cut into equal steps and every weight takes the nearest. Seconds, "
     "no data, the largest error; "
     "the measure that all others are held to (rtn_error of a report). With --mse-range the ends "
     "of each range move to where "
     "the squared error of the weights is least.",
     "--mse-range,awq,gptq"},
    {"method", "awq", "activation-aware", "scales input channels by what the data says of them",
     "Few input channels carry large values, and errors in their weights cost most. AWQ multiplies "
     "these weights by a scale "
     "before rounding and folds its inverse into the norm or linear before, so that nothing "
     "changes but the rounding. The scale "
     "is searched on the calibration data by the squared error of the outputs; then the ranges of "
     "the groups.\n"
     "The default: quick, steady, and what most engines run well.",
     "calibration,gptq,awq+gptq,rtn,--no-clip"},
    {"method", "gptq", "obq,hessian",
     "rounds column by column and lets the rest make up for the error",
     "A weight that was rounded up leaves an error in the outputs; the columns that are not "
     "rounded yet are moved so as to "
     "cancel what can be cancelled, by the second moments of the inputs. Usually a smaller error "
     "than awq on the calibration "
     "data; needs data like that of the use.",
     "calibration,act-order,--damp,awq+gptq"},
    {"method", "awq+gptq", NULL, "scales as awq, rounds as gptq",
     "The scale is searched with what GPTQ's rounding leaves of each column's error, tried against "
     "no scale, and kept where "
     "that is better. The smallest error, the longest time.",
     "awq,gptq"},

    /* ---- formats ---- */
    {"format", "compressed-tensors", "pack-quantized,int-quantized,ct",
     "the format of vLLM and llm-compressor",
     "A Hugging Face folder. Codes without 8-bit inputs are pack-quantized: weight_packed (int32, "
     "8 or 4 codes a word along the "
     "columns), weight_scale, weight_shape and, unless symmetric, weight_zero_point. With 8-bit "
     "inputs int-quantized: weight "
     "(int8) and weight_scale. config.json holds quantization_config with the groups of layers, "
     "their scheme, and the list of "
     "what is kept (ignore).\n"
     "Columns that the group does not divide are padded with zeros; others than Squint refuse such "
     "layers: choose a group that "
     "divides, or --on-indivisible smaller-group or channel.",
     "padding,--on-indivisible,awq-gemm,gptq-format"},
    {"format", "awq-gemm", "autoawq,gemm", "AutoAWQ's layout for many rows",
     "qweight int32 [columns, rows / 8], the 8 rows of a word in the order 0 2 4 6 1 3 5 7; qzeros "
     "the same for each group; "
     "scales float16 [groups, rows]. 4 bits, with zero points, float16 activations. Rows must be a "
     "multiple of 8 (32 for "
     "AutoAWQ's own writer), columns of the group. modules_to_not_convert lists what is kept.",
     "awq-gemv,w4a16"},
    {"format", "awq-gemv", "gemv", "AutoAWQ's layout for one row",
     "qweight int32 [rows, columns / 8] with the columns of a word in order; zero points and "
     "scales padded to whole words. "
     "Groups of 32, 64 or 128. For decoding one sequence.",
     "awq-gemm"},
    {"format", "gptq-format", "gptq,gptq_v1,gptq_v2,gptq-v1,gptq-v2",
     "GPTQModel's and AutoGPTQ's layout (--format gptq)",
     "qweight int32 [columns / 8, rows], packed along the columns; qzeros [groups, rows / 8]; "
     "scales float16; g_idx, the group "
     "of each column. Version 1 stores zero points less one, version 2 (gptq_v2) as they are; a "
     "reader that takes one for the "
     "other shifts every weight by one step.",
     "act-order,compressed-tensors"},
    {"format", "gguf", "mmproj,q4_0,q4_1,q8_0,q4_k,q6_k,ggml", "llama.cpp's files",
     "One file with metadata, tokenizer and tensors in blocks of 32 (Q4_0, Q4_1, Q5_0, Q5_1, Q8_0) "
     "or 256 (Q4_K to Q6_K) "
     "columns. A vision-language model is two: the language model, and the tower with its "
     "projector (mmproj). Squint runs both in place of a folder, codes as they are: MODEL.gguf "
     "with "
     "--mmproj FILE.gguf, a folder that holds the two, or MODEL.gguf+FILE.gguf where one path is "
     "wanted. Qwen2-VL's, Qwen2.5-VL's and LLaVA's mmprojs are read; convert makes a Hugging Face "
     "folder of them. VILA's joining projectors have no like in llama.cpp, and llama-cpp-python "
     "0.3.36 itself computes LLaVA's CLIP with the class token in the wrong place.\n"
     "Written by quantize --format gguf -o FILE.gguf, and by convert --format gguf from any "
     "folder: "
     "4-bit codes become Q4_0 where they are symmetric, Q4_1 or Q4_K where these hold scale times "
     "zero point exactly, else Q5_0; symmetric 8-bit ones Q8_0. GPTQ's act-order has no place "
     "there, nor have groups that are no multiple of 32.\n"
     "convert --format compressed-tensors, awq-gemm, awq-gemv, gptq or gptq-v2 takes such a file "
     "back: the codes "
     "as they are, where each block's offset is a whole multiple of its scale.",
     "hf,compressed-tensors"},
    {"format", "hf", "huggingface,safetensors", "a Hugging Face folder",
     "config.json, tokenizer.json and *.safetensors, one file or shards with an index; VILA's is a "
     "folder of three such. What "
     "Squint reads without conversion, and what quantize writes.",
     "compressed-tensors,gguf"},
    {"format", "llama2.c", "bin", "Karpathy's llama2.c files",
     "A .bin file (legacy, version 1 in f32, version 2 in 8 bits) with tokenizer.bin beside it. "
     "Run directly, or made a folder "
     "by convert.",
     "hf"},

    /* ---- options: what their line of help does not hold ---- */
    {"option", "--group-size", NULL, NULL,
     "Columns that share a scale (and a zero point). Smaller groups follow the weights closer and "
     "cost more: at 4 bits 0.16 "
     "bits a weight for 128, 0.3 for 64, 0.6 for 32. -1 is one group a row. Engines have kernels "
     "for -1, 32, 64 and 128.",
     "padding,--on-indivisible,--target-bits"},
    {"option", "--target", "target,engine", NULL,
     "The engine that has to load the folder: vllm, sglang, transformers, llama.cpp or squint, "
     "alone "
     "(the newest release that the rules were read from) or with a version, such as vllm@0.11. "
     "Read "
     "were vllm 0.11.0 and 0.33.0, sglang 0.5.5 and 0.5.23, transformers 5.17.0 and 5.23.0, "
     "llama.cpp "
     "as llama-cpp-python 0.3.36 has it (the version is that package's); a version between them is "
     "held to the older one's rules, a newer one to the newest, and one older than all is refused. "
     "quantize and convert refuse before any work what it has no kernel for: groups, zero points, "
     "layouts, shapes, q/k/v or gate/up of different schemes, shares of --tp ranks; config.json "
     "says float16 where its kernel takes nothing else.\n"
     "verify --target reads the folder (for llama.cpp the .gguf file) as its loader would: names, "
     "lists of what stays, shapes and types, zero points of GPTQ's versions, tokenizer, shards. "
     "One "
     "line for each thing that it would reject or silently misread.",
     "vllm,sglang,transformers,llama.cpp,--format,--sym,--group-size"},
    {"option", "--target-bits", NULL, NULL,
     "The data runs once before anything is written, and each layer's error is measured for 4 bits "
     "with groups of a row, 128, "
     "64 and 32 columns and for 8 bits. Then bits are bought where they lower the error most, "
     "until the average is met. Linears "
     "that share an input get one scheme.",
     "--group-size,w4a16"},
    {"option", "--sym", NULL, NULL,
     "Without zero points: the range of a group lies evenly around 0. Slightly worse at 4 bits, "
     "and all that some kernels have "
     "(GPTQ in Marlin; W8A8). --asym is the default.",
     "zero-point,--asym"},
    {"option", "--asym", NULL, NULL,
     "With a zero point for each group, so that its range need not lie around 0.",
     "--sym,zero-point"},
    {"option", "--calib", NULL, NULL,
     "JSON lines: {\"messages\": […]} conversations, with pictures, or {\"text\": \"…\"}. Take "
     "what the model is used for; for a "
     "vision-language model conversations with pictures, since tokens of pictures look unlike "
     "those of words. 64 to 128 samples "
     "do.",
     "calibration,--samples,--seq,--stats"},
    {"option", "--stats", NULL, NULL,
     "The statistics of `squint calibrate`, one pass over the data for any number of quantize "
     "runs. Of this very model: the file knows which, and what is damaged is refused. Not with "
     "--sequential, whose statistics are of one run alone.",
     "calibration,--calib"},
    {"option", "--sequential", NULL, NULL,
     "As GPTQModel does it: a layer sees the inputs that the quantized layers before it give, and "
     "can make up for their errors. "
     "Without it, as AutoAWQ does it, every layer sees the original's inputs; then a run can be "
     "resumed and statistics kept.",
     "calibration,gptq"},
    {"option", "--level", "structure,codes,cache,logits", NULL,
     "How far verify goes, each with those before it. structure: files, tensors, config.json and "
     "dimensions. codes: constant or empty codes, hashes of what was written. layers: each layer's "
     "error beside round-to-nearest's. cache: the same logits with and without a KV cache, in one "
     "piece and in many. logits: KL and equal first choices against the original, degenerate "
     "answers.",
     "kl,top1,kv-cache"},
    {"option", "--on-indivisible", "pad,smaller-group,channel", NULL,
     "For linears whose columns the group does not divide. pad: zero columns up to a whole group, "
     "stripped by Squint's loader. "
     "smaller-group: the largest usual group that divides. channel: one group a row. keep: not "
     "quantized.",
     "padding,--group-size"},
    {"option", "--vision", NULL, NULL,
     "The tower and what joins it to the language model: kept as they are unless given. Boxes and "
     "small print suffer first from "
     "4 bits there; w8a16 is nearly free.",
     "keep,w8a16,--profile"},
    {"option", "--profile", NULL, NULL,
     "A JSON file with scheme and group for language, vision and merger each, laid over the flags. "
     "profiles/ has one for "
     "servers, desktops and phones; torchchat's keys are read.",
     "w4a8,--vision"},
    {"option", "--damp", NULL, NULL,
     "GPTQ adds this share of the mean diagonal to the second moments, so that they can be "
     "factored. More is steadier and less "
     "exact.",
     "gptq"},
    {"option", "--max-ram", NULL, NULL,
     "What Squint allocates stays below it; quantize keeps the samples' activations on disk then. "
     "Weights that are read from a "
     "mapped file are not counted: the system drops their pages when it needs them.",
     "SQ_ENOMEM,--memory"},
    {"option", "--cpu", NULL, NULL,
     "Which kernels may be chosen, by the names that `devices` lists: c, avx2, avx2_vnni, avx512, "
     "avx512_vnni, avx512_bf16, amx; on ARM neon, neon_dotprod. The best of them is taken, of all "
     "otherwise. The environment "
     "variable SQUINT_CPU is the default. To compare, or to leave a faulty one out.",
     "--threads"},
    {"option", "--against", NULL, NULL,
     "The original that a quantized model was made from. Adds what only two models show: "
     "dimensions, KL, equal first choices; "
     "on the page of --report also its own answers.",
     "kl,top1"},
    {"option", "--level", NULL, NULL,
     "Each level includes those before: structure (files, dimensions, config), codes (hashes, "
     "scales), layers (errors against "
     "rounding to nearest), cache (cached equals uncached), logits (KL and first choices against "
     "the original).",
     "kl,top1"},
    {"option", "--report", NULL, NULL,
     "One HTML file with everything inside of it: sizes, dimensions, answers before and after, "
     "examples with their boxes, the "
     "error of each linear, what each quantized layer costs alone, the checks, and the commands. "
     "With --against the original "
     "answers, too, which doubles the time.",
     "--against,kl"},
    {"option", "--memory", NULL, NULL,
     "What plan holds its sums to, such as 8GiB; without it, what the system has available now. "
     "The largest context, picture "
     "and number of frames are those that fit in it.",
     "kv-cache,--context"},
    {"option", "--context", NULL, NULL,
     "Tokens of the whole conversation: the system message, words, pictures and answers. The KV "
     "cache grows with it.",
     "kv-cache,--memory"},

    /* ---- errors ---- */
    {"error", "SQ_OK", "0", "success", "The call did what it was asked.", NULL},
    {"error", "SQ_EARG", "-1,EARG", "an argument or option does not make sense",
     "The message names it and what was wanted. Exit status 2. `squint VERB --help` lists the "
     "options, `squint explain "
     "--option` says more about one.",
     "exit-2"},
    {"error", "SQ_EFORMAT", "-2,EFORMAT", "an input file is malformed, truncated or inconsistent",
     "The message names the file and the place. A truncated download is the usual cause: compare "
     "its size. A tensor with "
     "another shape than config.json says means that the two are not of one model. Exit status 3.",
     "exit-3,SQ_EUNSUPPORTED"},
    {"error", "SQ_EUNSUPPORTED", "-3,EUNSUPPORTED",
     "well-formed input that this version does not handle",
     "The file is right, and Squint has no code for it: another model family, a key of the "
     "processor that changes the "
     "arithmetic, a type of blocks. Exit status 3.",
     "exit-3,SQ_EFORMAT"},
    {"error", "SQ_EIO", "-4,EIO", "the operating system refused a read or write",
     "The message ends with the system's words: no such file, permission denied. Exit status 3.",
     "exit-3"},
    {"error", "SQ_ENOMEM", "-5,ENOMEM,oom", "memory or the memory limit is exhausted",
     "The message says what for and how much. `squint plan MODEL --memory SIZE` says before any "
     "work what fits: a shorter "
     "--context, a smaller picture (--image-max-tokens), 4 bits (--scheme w4a16). A session stays "
     "usable. Exit status 4.",
     "exit-4,--max-ram,kv-cache"},
    {"error", "SQ_ENOSPC", "-6,ENOSPC", "the disk is full",
     "Nothing half-written stands under the final name. quantize keeps what is done in OUT.partial "
     "and goes on from there when "
     "it is started again. Exit status 4.",
     "exit-4"},
    {"error", "SQ_ELIMIT", "-7,ELIMIT", "the model's position limit (context) is reached",
     "The prompt, pictures included, has more tokens than the model has positions; it is told "
     "before any work, with both "
     "numbers. Leave turns out, or give pictures fewer tokens with --image-max-tokens. Exit status "
     "4.",
     "exit-4,--context"},
    {"error", "SQ_ECHECK", "-8,ECHECK", "a verification did not hold",
     "verify found a difference, or eval came out beyond a limit that was given. The report names "
     "the check, its value and its "
     "limit. Exit status 1.",
     "exit-1,--level"},
    {"error", "SQ_ECANCELLED", "-9,ECANCELLED", "the caller's callback asked to stop",
     "A program that uses the library returned non-zero from its progress callback. What quantize "
     "had done is kept and resumed.",
     "exit-5"},
    {"error", "SQ_EINTERNAL", "-10,EINTERNAL", "a defect in Squint",
     "Something that cannot be has happened; please report the command and the message. Exit "
     "status 5.",
     "exit-5"},

    /* ---- exit statuses ---- */
    {"exit status", "exit-0", NULL, "done", "All went well.", NULL},
    {"exit status", "exit-1", NULL, "a check did not hold", "Of verify, or a limit of eval.",
     "SQ_ECHECK"},
    {"exit status", "exit-2", NULL, "wrong arguments", "Of the command line.", "SQ_EARG"},
    {"exit status", "exit-3", NULL, "bad input file",
     "Missing, broken, or of a kind that is not handled.", "SQ_EFORMAT,SQ_EUNSUPPORTED,SQ_EIO"},
    {"exit status", "exit-4", NULL, "not enough memory, disk or context",
     "plan also exits so when the plan does not fit.", "SQ_ENOMEM,SQ_ENOSPC,SQ_ELIMIT"},
    {"exit status", "exit-5", NULL, "anything else", "Stopped, or a defect.",
     "SQ_ECANCELLED,SQ_EINTERNAL"},

    /* ---- engines ---- */
    {"engine", "vllm", NULL, "what vLLM loads",
     "0.33: awq-gemm of 4 bits; groups of -1, 32, 64, 128 by Marlin, which pads other shapes, any "
     "group "
     "that divides otherwise, then in float16. gptq, gptq-v2: symmetric by Marlin alone. "
     "compressed-tensors: 4 and 8 bits symmetric; with zero points 4 bits by Marlin; w8a8 with one "
     "scale a row; w4a8 on Arm CPUs and Intel GPUs. 0.11: Marlin wants outputs in multiples of 64 "
     "and "
     "inputs of 128; gptq (v1) else by exllama in float16, with zero points as well. q/k/v and "
     "gate/up "
     "are one matrix each and have one scheme. Padding in the file is not understood.",
     "--target,sglang,awq-gemm,gptq-format,compressed-tensors"},
    {"engine", "sglang", NULL, "what SGLang loads",
     "awq-gemm: 4 bits, by Marlin with outputs in multiples of 64 and inputs of 128, else in "
     "float16. "
     "gptq, gptq-v2: symmetric in Marlin's shapes alone (0.5.5: asymmetric as v1, too). "
     "compressed-tensors: in Marlin's shapes, symmetric, or from 0.5.23 on 4 bits with zero "
     "points; w8a8 "
     "with one scale a row.",
     "--target,vllm"},
    {"engine", "transformers", NULL, "what transformers loads",
     "awq-gemm and awq-gemv, gptq (symmetric) and gptq-v2 by way of GPTQModel; compressed-tensors "
     "symmetric, with whole groups. Lists of what stays are matched at the beginning or end of its "
     "own names, such as model.visual.",
     "--target,compressed-tensors"},
    {"engine", "llama.cpp", "llamacpp", "what llama.cpp loads",
     "A GGUF file: quantize and convert with --format gguf. verify --target llama.cpp FILE.gguf "
     "looks for the keys and tensors without which its loader stops.",
     "--target,gguf"},

    /* ---- words ---- */
    {"word", "act-order", "desc_act,g_idx", "GPTQ's order of columns",
     "Columns with the largest second moments are rounded first, while most others can still make "
     "up for their errors. Squint "
     "finds the ranges before, so that the order leaves no trace in the file (no g_idx). "
     "--no-act-order takes them as they lie.",
     "gptq,gptq-format"},
    {"word", "calibration", "calibrate",
     "running data through the model to learn what its linears see",
     "For each distinct input of linears the mean and largest magnitude of every channel and the "
     "second moments X'X are "
     "gathered, layer by layer, once. All methods choose by the squared error of the outputs, "
     "which these give without a second "
     "pass.",
     "--calib,--stats,--sequential"},
    {"word", "iou", "bbox,boxes", "intersection over union of two boxes",
     "The area that both have over the area that either has: 1 for equal boxes, 0 for apart ones; "
     "0.5 passes for a hit in most "
     "benchmarks. eval gives the mean; answers without a box count 0.",
     "--report"},
    {"word", "kl", "kl-divergence",
     "how far the quantized model's predictions are from the original's",
     "Kullback-Leibler divergence of the next token's distribution, in nats a token, averaged over "
     "all positions. Below 0.01 "
     "hardly anything changes, at 0.1 answers do; unlike perplexity it cannot come out better by "
     "chance.",
     "top1,perplexity"},
    {"word", "kv-cache", "kv,kv_bytes", "keys and values of the tokens so far",
     "2 * layers * KV heads * head dimension * 4 bytes a token (f32), in blocks of 64 tokens that "
     "are appended and never "
     "copied. It grows with the conversation until the model's positions or the memory end.",
     "--context,--memory"},
    {"word", "padding", "indivisible", "zero columns up to a whole group",
     "Where the group does not divide a linear's columns (288 with groups of 128), weight_packed "
     "and weight_scale hold the "
     "padded width and weight_shape the true one. Zero columns change no scale and no product; the "
     "loader strips them.",
     "--on-indivisible,compressed-tensors"},
    {"word", "perplexity", "ppl", "how surprised the model is by a text",
     "exp of the mean negative log-likelihood of a text's tokens, over windows that each start "
     "anew (--window, 512 tokens). To "
     "compare with published figures the windows and the text must be the same.",
     "kl,--window"},
    {"word", "top1", "top1_agreement", "share of positions where both models prefer the same token",
     "Where the original itself is within 0.1 of a tie, verify counts another choice as no fault.",
     "kl"},
    {"word", "zero-point", "zeros,asymmetric", "the code that stands for 0",
     "w = (code - zero) * scale. With it a group's range may lie anywhere that holds 0; without "
     "(symmetric) it lies around 0.",
     "--sym,w4a16"},
    {NULL, NULL, NULL, NULL, NULL, NULL},
};
