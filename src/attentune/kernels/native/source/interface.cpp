// The plain C interface, and the choice of the instruction set at run time.
#include "problem.h"
#include <cstdlib>
#include <cstring>

#define DECLARE(SET)                                                                                                   \
    namespace SET {                                                                                                    \
    int run_forward(const Problem &);                                                                                  \
    int run_backward(const Problem &);                                                                                 \
    int run_statistics(const Problem &);                                                                               \
    }
DECLARE(plain)
#if defined(ATTENTUNE_X86)
DECLARE(avx2)
DECLARE(avx512)
#endif

namespace {
enum Set { PLAIN, AVX2, AVX512 };

int chosen_set() {
    Set best = PLAIN;
#if defined(ATTENTUNE_X86)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) best = AVX2;
    if (best == AVX2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        best = AVX512;
#endif
    const char *names[] = {"plain", "avx2", "avx512"}, *asked = std::getenv("ATTENTUNE_ISA");
    if (!asked || !*asked) return best;
    for (int set = PLAIN; set <= best; set++)
        if (!std::strcmp(asked, names[set])) return set;
    return -1;
}

using Runner = int (*)(const Problem &);
int run(const Problem *p, Runner plain, Runner avx2, Runner avx512) {
    switch (chosen_set()) {
    case PLAIN: return plain(*p);
    case AVX2: return avx2(*p);
    case AVX512: return avx512(*p);
    }
    return NO_SUCH_INSTRUCTION_SET;
}
} // namespace

#if defined(ATTENTUNE_X86)
#define RUN(NAME) run(p, plain::NAME, avx2::NAME, avx512::NAME)
#else
#define RUN(NAME) run(p, plain::NAME, nullptr, nullptr)
#endif

#pragma GCC visibility push(default)
extern "C" {
const char *attentune_source() { return ATTENTUNE_SOURCE; }
const char *attentune_instruction_set() {
    const char *names[] = {"none", "plain", "avx2", "avx512"};
    return names[chosen_set() + 1];
}
int attentune_forward(const Problem *p) { return RUN(run_forward); }
int attentune_backward(const Problem *p) { return RUN(run_backward); }
int attentune_statistics(const Problem *p) { return RUN(run_statistics); }

// Parts into which the queries of each batch row and group are cut, where these alone are too few for the threads.
int64_t attentune_segments(const Problem *p) {
    int64_t rows = p->batch * p->groups, tiles = (p->queries + 63) / 64;
    if (p->threads < 2 || rows < 1 || rows >= 2 * p->threads) return 1;
    int64_t parts = (4 * p->threads + rows - 1) / rows;
    return parts < tiles ? parts : (tiles > 1 ? tiles : 1);
}
}
