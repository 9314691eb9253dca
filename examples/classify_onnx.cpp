// Scores JPEGs by the file of `open-nsfw export onnx nsfw.onnx --input picture`, in C++.
// For Yahoo's network; the labels of other ones, in order, are in their file's metadata.
//
// With libjpeg-turbo (Debian's libjpeg62-turbo-dev) and the OpenVINO of `pip install
// openvino`, whose folder OV is, `python -c "import openvino; print(*openvino.__path__)"`:
// g++ -O2 -std=c++17 classify_onnx.cpp -I$OV/include -L$OV/libs -Wl,-rpath,$OV/libs
//   $OV/libs/libopenvino.so.* -ljpeg -o classify_onnx
// ./classify_onnx nsfw.onnx photo.jpg ...
#include <cstdio>
#include <jpeglib.h>
#include <openvino/openvino.hpp>

static void fail(j_common_ptr jpeg) {  // libjpeg's own would end the program
    char message[JMSG_LENGTH_MAX];
    jpeg->err->format_message(jpeg, message);
    throw std::runtime_error(message);
}

struct Reader {
    jpeg_error_mgr errors;
    jpeg_decompress_struct jpeg{};
    std::FILE* file;

    explicit Reader(const char* path) : file(std::fopen(path, "rb")) {
        if (!file) throw std::runtime_error("cannot be opened");
        jpeg.err = jpeg_std_error(&errors);
        errors.error_exit = fail;
        jpeg_create_decompress(&jpeg);
        jpeg_stdio_src(&jpeg, file);
    }
    ~Reader() {
        jpeg_destroy_decompress(&jpeg);
        std::fclose(file);
    }
    ov::Tensor decoded() {
        jpeg_read_header(&jpeg, TRUE);
        jpeg.out_color_space = JCS_RGB;
        jpeg_start_decompress(&jpeg);
        size_t width = jpeg.output_width, height = jpeg.output_height;
        ov::Tensor image(ov::element::u8, {1, height, width, 3});
        while (jpeg.output_scanline < height) {
            JSAMPROW row = image.data<uint8_t>() + jpeg.output_scanline * width * 3;
            jpeg_read_scanlines(&jpeg, &row, 1);
        }
        jpeg_finish_decompress(&jpeg);
        // A file cut short is only a warning; the rest of the picture is grey.
        if (errors.num_warnings) throw std::runtime_error("damaged");
        return image;
    }
};

int main(int count, char** arguments) try {
    if (count < 3) throw std::runtime_error("usage: classify_onnx MODEL JPEG...");
    ov::Core core;
    // By default OpenVINO computes in bfloat16, which is not exact.
    auto exact = ov::hint::inference_precision(ov::element::f32);
    auto request = core.compile_model(arguments[1], "CPU", exact).create_infer_request();
    int status = 0;
    for (int i = 2; i < count; i++) try {
        request.set_input_tensor(Reader(arguments[i]).decoded());
        request.infer();
        ov::Tensor scores = request.get_output_tensor();
        if (scores.get_size() != 2) throw std::runtime_error("the model is not Yahoo's");
        std::printf("{\"path\": \"%s\", \"nsfw\": %.7f}\n", arguments[i], scores.data<float>()[1]);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "error: %s: %s\n", arguments[i], error.what());
        status = 1;
    }
    return status;
} catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
}
