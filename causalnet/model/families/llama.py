"""The block of Llama and of most models since: sequential, one norm before each mechanism.

Grouped-query heads, latent attention, sliding windows and mixtures of experts change what happens inside
the two modules, or what the config says, and nothing here.
"""

from causalnet.model.record import Family

RECORDS = (
    Family(
        (
            *("llama", "mistral", "mixtral", "ministral", "ministral3", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe"),
            *("gemma", "phi3", "phimoe", "olmo", "olmoe", "starcoder2", "glm", "glm4_moe", "smollm3", "nemotron"),
            *("deepseek_v2", "deepseek_v3", "gpt_oss", "arcee", "aria_text", "cwm", "dots1", "ernie4_5"),
            *("ernie4_5_moe", "helium", "hunyuan_v1_dense", "hunyuan_v1_moe", "internlm3", "minimax_m2", "seed_oss"),
        )
    ),
)
